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

#[cfg(test)]
mod tests {
    use sundew_core::client::Binding;

    use super::super::Collected;
    use super::*;

    /// A collector of this kind that works or fails.
    struct Scripted(&'static str, Result<&'static str, &'static str>);

    impl Collector for Scripted {
        fn kind(&self) -> &str {
            self.0
        }
        fn collect<'a>(&'a self, _: &'a Context<'a>) -> Collected<'a> {
            let evidence = self.1.map(|text| text.as_bytes().to_vec());
            let evidence = evidence.map_err(|problem| problem.into());
            Box::pin(async move { evidence })
        }
    }

    async fn choose(sets: &[&[&str]]) -> Result<Vec<Evidence>, String> {
        let collectors: [Arc<dyn Collector>; 3] = [
            Arc::new(Scripted("oidc", Ok("token"))),
            Arc::new(Scripted("process", Ok("statement"))),
            Arc::new(Scripted("tpm2", Err("the TPM is busy"))),
        ];
        let sets: Vec<_> = sets
            .iter()
            .map(|kinds| EvidenceSet {
                kinds: kinds.iter().map(ToString::to_string).collect(),
            })
            .collect();
        let binding = Binding::from_bytes([0; 32]);
        let context = Context::new(&binding, "", None);
        let chosen = first_whole_set(&collectors, &sets, &context).await;
        chosen.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_first_set_that_can_be_collected_whole_is_taken() {
        let chosen = choose(&[
            &["oidc", "tpm2"],
            &["nitro"],
            &["oidc", "process"],
            &["oidc"],
        ]);
        let chosen = chosen.await.expect("evidence");
        let chosen: Vec<_> = chosen
            .iter()
            .map(|evidence| (evidence.kind.as_str(), evidence.payload.as_slice()))
            .collect();
        assert_eq!(
            chosen,
            [
                ("oidc", b"token".as_slice()),
                ("process", b"statement".as_slice())
            ]
        );
        // A broker that wants no evidence offers a set of nothing.
        assert!(choose(&[&[]]).await.is_ok_and(|chosen| chosen.is_empty()));
    }

    #[tokio::test]
    async fn the_error_says_what_the_first_set_lacked() {
        assert_eq!(
            choose(&[&["tpm2"], &["nitro"]]).await,
            Err("evidence of kind `tpm2`: the TPM is busy".to_owned())
        );
        assert_eq!(
            choose(&[&["nitro"], &["tpm2"]]).await,
            Err("evidence of kind `nitro`: the broker asks for it and nothing here collects it; set SUNDEW_EVIDENCE_COMMAND_NITRO".to_owned())
        );
        assert_eq!(
            choose(&[]).await,
            Err("evidence of kind `any`: the broker asks for none, and takes none".to_owned())
        );
    }
}
