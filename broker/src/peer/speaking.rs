//! Connections that never speak are ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Sleep;

/// How long a connection may be open before the first byte comes.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(10);

/// A3: the time within which the first byte of a connection must come.
pub(crate) struct FirstByte(Option<Pin<Box<Sleep>>>);

impl FirstByte {
    /// Of a connection that was opened now.
    pub(crate) fn awaited() -> Self {
        Self(Some(Box::pin(tokio::time::sleep(FIRST_BYTE_WITHIN))))
    }

    /// Notes that bytes came in another way.
    pub(crate) fn heard(&mut self) {
        self.0 = None;
    }

    /// Watches a read into an empty buffer: an error ends a connection on which nothing came in
    /// time.
    pub(crate) fn watch(
        &mut self,
        read: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
        buffer: &ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.0 else {
            return read;
        };
        if !buffer.filled().is_empty() {
            self.0 = None;
            return read;
        }
        if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    async fn read(stream: &mut DuplexStream, first: &mut FirstByte) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut space = [0; 8];
            let mut buffer = ReadBuf::new(&mut space);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            let read = first.watch(read, cx, &buffer);
            read.map_ok(|()| buffer.filled().len())
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a3_a_connection_that_never_speaks_is_ended_and_one_that_spoke_may_be_silent() {
        let (_silent, mut stream) = tokio::io::duplex(8);
        let ended = read(&mut stream, &mut FirstByte::awaited()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut speaking, mut stream) = tokio::io::duplex(8);
        let mut first = FirstByte::awaited();
        speaking.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut stream, &mut first).await.unwrap(), 1);
        let hour = Duration::from_secs(3600);
        let waiting = tokio::time::timeout(hour, read(&mut stream, &mut first)).await;
        assert!(waiting.is_err(), "ended though it had spoken");
    }
}
