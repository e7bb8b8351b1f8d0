//! Messages between the processes of `sundew run`, and the descriptors that go with them.
//!
//! Each connection is a pair of sockets (`SOCK_SEQPACKET`) of which one process has each. A process
//! gets its socket as its standard input, and its true standard input by a message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The most descriptors that go with one message.
pub(super) const MOST_DESCRIPTORS: usize = 64;
/// The longest message, in bytes.
const LONGEST: usize = 16 * 1024;

/// Makes the two ends of a connection.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Returns the connection that this process was given as its standard input.
pub(super) fn given() -> io::Result<OwnedFd> {
    rustix::stdio::stdin().try_clone_to_owned()
}

/// Sends a message with descriptors.
pub(super) fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one command"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Waits for the next message, and returns it with its descriptors. An empty one means that the
/// other end has gone.
pub(super) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_with(socket, RecvFlags::empty())
}

/// Returns the next message if there is one already.
pub(super) fn receive_now(socket: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    match receive_with(socket, RecvFlags::DONTWAIT) {
        Ok((message, _)) => Ok(Some(message)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; LONGEST];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let length = loop {
        let mut parts = [IoSliceMut::new(&mut message)];
        match recvmsg(&socket, &mut parts, &mut control, flags) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    message.truncate(length);
    let mut descriptors = Vec::new();
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = received {
            descriptors.extend(rights);
        }
    }
    Ok((message, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message_and_an_end_that_has_gone_is_an_empty_one() {
        let (here, there) = pair().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        send(&here, b"first", &[reader.as_fd()]).unwrap();
        send(&here, b"second", &[]).unwrap();
        drop((here, reader));
        let (message, descriptors) = receive(&there).unwrap();
        assert_eq!(message, b"first");
        writer.write_all(b"through").unwrap();
        drop(writer);
        let [reader] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "through");
        assert_eq!(
            receive_now(&there).unwrap().as_deref(),
            Some(&b"second"[..])
        );
        assert_eq!(receive(&there).unwrap().0, b"");
    }

    #[test]
    fn nothing_is_waited_for_when_only_what_is_there_counts() {
        let (_here, there) = pair().unwrap();
        assert!(receive_now(&there).unwrap().is_none());
    }
}
