//! The choice among the sets of evidence that a broker takes.

use std::sync::Arc;

use sundew_proto::v1::{Evidence, EvidenceSet};

use super::chosen::hint;
use super::{Collector, Context};
use crate::error::Error;

/// Collects the evidence of the first of these sets that can be collected whole.
///
/// # Errors
/// If no set can be collected, the error says what the first set lacked.
pub(crate) async fn first_whole_set(
    collectors: &[Arc<dyn Collector>],
    sets: &[EvidenceSet],
    context: &Context<'_>,
) -> Result<Vec<Evidence>, Error> {
    let mut missing = None;
    for set in sets {
        match whole(collectors, &set.kinds, context).await {
            Ok(evidence) => return Ok(evidence),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    Err(missing.unwrap_or_else(|| Error::Evidence {
        kind: "any".to_owned(),
        problem: "the broker asks for none, and takes none".to_owned(),
    }))
}

/// Collects one piece of evidence of each of these kinds.
async fn whole(
    collectors: &[Arc<dyn Collector>],
    kinds: &[String],
    context: &Context<'_>,
) -> Result<Vec<Evidence>, Error> {
    let mut evidence = Vec::new();
    for kind in kinds {
        let fail = |problem: String| Error::Evidence {
            kind: kind.clone(),
            problem,
        };
        let collector = collectors.iter().find(|c| c.kind() == kind);
        let collector = collector.ok_or_else(|| {
            fail(format!(
                "the broker asks for it and nothing here collects it{}",
                hint(kind)
            ))
        })?;
        let payload = collector
            .collect(context)
            .await
            .map_err(|problem| fail(problem.to_string()))?;
        evidence.push(Evidence {
            kind: kind.clone(),
            payload,
        });
    }
    Ok(evidence)
}
