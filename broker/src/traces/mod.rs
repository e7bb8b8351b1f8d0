//! Traces of calls over OTLP, for those who want them: a span for each call, with what the record
//! has of the caller and of the answer.
//!
//! P10, P11: a span has names of ours and ids only, never a token, a secret or a text of a caller.
//! P12: nothing waits for a collector; a span that finds no place in the queue is counted and lost.

mod call;
mod config;
mod queue;

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanKind, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::metadata::MetadataMap;

pub(crate) use call::CallSpan;
pub(crate) use config::FileTraces;
pub use config::TracesConfig;
pub(crate) use queue::Sending;
use queue::{Queue, Queued};

use crate::metrics::SpanMetrics;

/// The name of the only metadata that a trace is taken from (W3C Trace Context, section 3.2). The
/// `tracestate` beside it has whatever a caller likes, and is left.
const PARENT: &str = "traceparent";
/// The longest time in which the last spans are sent when a broker stops.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Why traces cannot be sent as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TracesError {
    /// The exporter cannot be built.
    #[error("traces.endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A file cannot be read.
    #[error("traces: {0}")]
    File(#[from] crate::peer::files::FileError),
    /// A line of the file with headers is none.
    #[error("traces.headers_file: line {0}: must be a header as `name=value`")]
    Header(usize),
}

/// Makes the spans of calls, if this broker is to.
pub(crate) struct Traces(Option<On>);

struct On {
    tracer: SdkTracer,
    queue: tokio::sync::mpsc::Sender<Queued>,
}

impl Traces {
    /// No spans.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Spans as configured; what sends them is to be run.
    pub(crate) fn on(
        config: &TracesConfig,
        metrics: SpanMetrics,
    ) -> Result<(Self, Sending), TracesError> {
        // As everywhere: `OTEL_RESOURCE_ATTRIBUTES` adds to it.
        let resource = Resource::builder()
            .with_service_name("sundew-broker")
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        let exporter = config.exporter()?;
        let (queue, sending) = queue::queue(exporter, &resource, metrics);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue::clone(&queue))
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        let on = On {
            tracer: provider.tracer("sundew"),
            queue: queue.sender(),
        };
        Ok((Self(Some(on)), sending))
    }

    /// The span of a call that came now with this metadata.
    pub(crate) fn begin(&self, rpc: &'static str, metadata: &MetadataMap) -> CallSpan {
        let Some(On { tracer, .. }) = &self.0 else {
            return CallSpan::none();
        };
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Parent(metadata));
        let builder = tracer.span_builder(rpc).with_kind(SpanKind::Server);
        CallSpan::new(rpc, tracer.build_with_context(builder, &parent))
    }

    /// Sends what is left; waits two seconds at most.
    pub(crate) async fn stop(&self) {
        let Some(On { queue, .. }) = &self.0 else {
            return;
        };
        let (sent, all_sent) = tokio::sync::oneshot::channel();
        let last = async {
            if queue.send(Queued::Last(sent)).await.is_ok() {
                // An error says that nobody sends any more.
                drop(all_sent.await);
            }
        };
        if tokio::time::timeout(LAST_SPANS, last).await.is_err() {
            tracing::warn!("the last spans were not sent in time");
        }
    }
}

/// The metadata of a call, of which only the trace is seen.
struct Parent<'a>(&'a MetadataMap);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let of_trace = key == PARENT;
        of_trace.then(|| self.0.get(PARENT)?.to_str().ok())?
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT]
    }
}
