//! The way of spans to the collector: a bounded queue, and one that empties it (P12).

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter as Exporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::SpanMetrics;

/// Most spans that wait. They are about a kilobyte each.
const QUEUE: usize = 4096;
/// Most spans of one message to the collector.
const BATCH: usize = 512;
/// For how long a batch waits for more spans.
const TOGETHER: Duration = Duration::from_secs(1);

/// What waits.
pub(super) enum Queued {
    /// There are no more; to be told when they are sent.
    Last(oneshot::Sender<()>),
    Span(Box<SpanData>),
}

/// The end of the queue at which spans come in. The SDK's own batches do not tell how many spans they
/// lose.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    metrics: SpanMetrics,
    queue: Sender<Queued>,
}

impl Queue {
    pub(super) fn sender(&self) -> Sender<Queued> {
        self.queue.clone()
    }
}

/// Both ends of a queue.
pub(super) fn queue(
    mut exporter: Exporter,
    resource: &Resource,
    metrics: SpanMetrics,
) -> (Queue, Sending) {
    exporter.set_resource(resource);
    let (sender, receiver) = channel(QUEUE);
    let queue = Queue {
        metrics: metrics.clone(),
        queue: sender,
    };
    let sending = Sending {
        exporter,
        metrics,
        queue: receiver,
    };
    (queue, sending)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.queue.try_send(Queued::Span(Box::new(span))).is_err() {
            self.metrics.queue_full();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The end of the queue from which spans are sent.
pub(crate) struct Sending {
    exporter: Exporter,
    metrics: SpanMetrics,
    queue: Receiver<Queued>,
}

impl Sending {
    /// Sends what comes, for as long as something can come.
    pub(crate) async fn run(mut self) {
        let mut is_failing = false;
        while let Some(first) = self.queue.recv().await {
            let mut taken = vec![first];
            // Whether the time is over or the batch is full makes no difference.
            drop(timeout(TOGETHER, self.fill(&mut taken)).await);
            let mut last = Vec::new();
            let mut batch = Vec::new();
            for queued in taken {
                match queued {
                    Queued::Last(told) => last.push(told),
                    Queued::Span(span) => batch.push(*span),
                }
            }
            if !batch.is_empty() {
                self.send(batch, &mut is_failing).await;
            }
            for told in last {
                // Who does not wait any more need not hear it.
                told.send(()).unwrap_or_default();
            }
        }
    }

    /// Takes more until a batch is full, or there are no more.
    async fn fill(&mut self, taken: &mut Vec<Queued>) {
        while taken.len() < BATCH && !matches!(taken.last(), Some(Queued::Last(_))) {
            match self.queue.recv().await {
                Some(queued) => taken.push(queued),
                None => return,
            }
        }
    }

    /// Sends a batch. One that the collector does not take is counted, and lost.
    async fn send(&self, batch: Vec<SpanData>, is_failing: &mut bool) {
        let count = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => {
                if std::mem::take(is_failing) {
                    tracing::info!("the collector of traces takes spans again");
                }
                self.metrics.sent(count);
            }
            Err(error) => {
                if !std::mem::replace(is_failing, true) {
                    tracing::warn!(%error, "the collector of traces takes no spans");
                }
                self.metrics.unsent(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn p12_o3_a_span_without_a_place_is_counted_and_nobody_waits() {
        let mut registry = Registry::default();
        let metrics = SpanMetrics::register(&mut registry);
        let (queue, mut taken) = channel(2);
        let queue = Queue { metrics, queue };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .build();
        for _ in 0..5 {
            drop(provider.tracer("test").start("a"));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("spans_total{result=\"queue_full\"} 3"),
            "{text}"
        );
        assert!(taken.try_recv().is_ok() && taken.try_recv().is_ok());
    }
}
