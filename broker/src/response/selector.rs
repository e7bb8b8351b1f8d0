//! Selectors of messages as selectors of the domain, and the reverse.

use sundew_attestation::spiffe::TrustDomain;
use sundew_core::{Credential, Effect, OrderId, Scope, Selector, TaskId, TokenId};
use sundew_proto::v1;

use crate::refusal::Refusal;
use crate::wire::spiffe_id;

/// Reads a field that may be empty, which is `None`.
fn given<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

/// Reads a selector; what selects nothing is refused (AC-42).
pub(super) fn read(message: Option<v1::Selector>, now_ms: i64) -> Result<Selector, Refusal> {
    let message = message.unwrap_or_default();
    let task =
        |field| move |text: &str| TaskId::parse(text).map_err(|e| Refusal::invalid(field, e));
    let text = |text: &str| Ok(text.to_owned());
    let secret = given(&message.secret, |name| {
        Scope::of_secret(name).map_err(|e| Refusal::invalid("secret", e))
    })?;
    let scope = given(&message.scope, |text| {
        Scope::parse(text).map_err(|e| Refusal::invalid("scope", e))
    })?;
    if secret.is_some() && scope.is_some() {
        return Err(Refusal::invalid(
            "secret",
            "is a scope of its own: name one of the two",
        ));
    }
    if message.issued_before_ms < 0 || message.issued_before_ms > now_ms {
        return Err(Refusal::invalid(
            "issued_before_ms",
            "must be a time in milliseconds since 1970, and not in the future",
        ));
    }
    // A whole token says which task it is of, so that nobody has to look for it among all that
    // live; its name alone does not.
    let credential = Credential::parse(&message.token);
    let selector = Selector {
        token: match &credential {
            Some(credential) => Some(credential.hash().token_id()),
            None => given(&message.token, |text| {
                TokenId::parse(text)
                    .map_err(|_| Refusal::invalid("token", "must be a token, or a token id"))
            })?,
        },
        task: given(&message.task_id, task("task_id"))?
            .or(credential.map(|credential| credential.task())),
        task_tree: given(&message.task_tree, task("task_tree"))?,
        workload: given(&message.spiffe_id, spiffe_id)?,
        path_prefix: given(&message.spiffe_path_prefix, spiffe_id)?,
        trust_domain: given(&message.trust_domain, |text| {
            TrustDomain::parse(text).map_err(|e| Refusal::invalid("trust_domain", e))
        })?,
        audience: given(&message.audience, audience)?,
        scope: scope.or(secret),
        claims: message.claims,
        svid_serial: given(&message.svid_serial, |text| Ok(serial(text)))?,
        registration: given(&message.registration_version, text)?,
        issued_before_ms: (message.issued_before_ms > 0).then_some(message.issued_before_ms),
        dispatcher: given(&message.dispatcher, spiffe_id)?,
        order: given(&message.order_id, |text| {
            OrderId::parse(text).map_err(|e| Refusal::invalid("order_id", e))
        })?,
        ordered_tasks: message.ordered_tasks,
        everything: message.everything,
    };
    selector
        .check()
        .map_err(|e| Refusal::invalid("selector", e))?;
    Ok(selector)
}

/// Reads an audience. No token is meant for a pattern, so a rule that names one would hit nothing.
fn audience(text: &str) -> Result<String, Refusal> {
    if text.contains('*') {
        return Err(Refusal::invalid(
            "audience",
            "is compared whole: name each audience, without `*`",
        ));
    }
    Ok(text.to_owned())
}

/// Brings a serial number to one spelling, whatever program printed it (`openssl x509 -serial` and
/// others): colons, capitals and leading zeros do not matter.
fn serial(text: &str) -> String {
    let digits: String = text
        .chars()
        .filter(|c| *c != ':')
        .flat_map(char::to_lowercase)
        .collect();
    let bytes = digits.trim_start_matches("00");
    if bytes.len() % 2 == 1 {
        format!("0{bytes}")
    } else {
        bytes.to_owned()
    }
}

/// A selector as a message.
pub(super) fn message(selector: &Selector) -> v1::Selector {
    fn text(value: Option<&impl ToString>) -> String {
        value.map(ToString::to_string).unwrap_or_default()
    }
    v1::Selector {
        token: text(selector.token.as_ref()),
        task_id: text(selector.task.as_ref()),
        task_tree: text(selector.task_tree.as_ref()),
        spiffe_id: text(selector.workload.as_ref()),
        spiffe_path_prefix: text(selector.path_prefix.as_ref()),
        trust_domain: text(selector.trust_domain.as_ref()),
        audience: text(selector.audience.as_ref()),
        scope: text(selector.scope.as_ref()),
        secret: String::new(),
        claims: selector.claims.clone(),
        svid_serial: text(selector.svid_serial.as_ref()),
        registration_version: text(selector.registration.as_ref()),
        issued_before_ms: selector.issued_before_ms.unwrap_or_default(),
        everything: selector.everything,
        dispatcher: text(selector.dispatcher.as_ref()),
        order_id: text(selector.order.as_ref()),
        ordered_tasks: selector.ordered_tasks,
    }
}

/// Reads the field `effect`; unspecified is to revoke.
pub(super) fn read_effect(value: i32) -> Result<Effect, Refusal> {
    match v1::Effect::try_from(value) {
        Ok(v1::Effect::Unspecified | v1::Effect::Revoke) => Ok(Effect::Revoke),
        Ok(v1::Effect::Quarantine) => Ok(Effect::Quarantine),
        Ok(v1::Effect::Contain) => Ok(Effect::Contain),
        Ok(v1::Effect::Suspend) => Ok(Effect::Suspend),
        Err(_) => Err(Refusal::invalid("effect", "unknown effect")),
    }
}

/// An effect as a message.
pub(super) fn effect_message(effect: Effect) -> v1::Effect {
    match effect {
        Effect::Revoke => v1::Effect::Revoke,
        Effect::Quarantine => v1::Effect::Quarantine,
        Effect::Contain => v1::Effect::Contain,
        Effect::Suspend => v1::Effect::Suspend,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_serial_is_one_however_it_is_printed() {
        for text in ["0a:Bc", "A:bc", "000abc", "abc", "0abc"] {
            assert_eq!(super::serial(text), "0abc", "{text}");
        }
    }

    #[test]
    fn ac_42_blank_and_unset_selectors_are_refused() {
        use sundew_proto::v1::Selector;
        let refused = |selector| super::read(Some(selector), 1000).is_err();
        assert!(super::read(None, 1000).is_err() && refused(Selector::default()));
        assert!(refused(Selector {
            spiffe_id: " ".to_owned(),
            ..Selector::default()
        }));
        assert!(refused(Selector {
            audience: " ".to_owned(),
            ..Selector::default()
        }));
        for pattern in ["*", "https://api.example/*"] {
            assert!(
                refused(Selector {
                    audience: pattern.to_owned(),
                    ..Selector::default()
                }),
                "{pattern}"
            );
        }
        for wildcard in ["*", "spiffe://*", "spiffe://a.b/*", "spiffe://a.b/x/*"] {
            assert!(
                refused(Selector {
                    spiffe_id: wildcard.to_owned(),
                    ..Selector::default()
                }),
                "{wildcard}"
            );
            assert!(
                refused(Selector {
                    spiffe_path_prefix: wildcard.to_owned(),
                    ..Selector::default()
                }),
                "{wildcard}"
            );
        }
        assert!(refused(Selector {
            issued_before_ms: 1001,
            ..Selector::default()
        }));
        assert!(refused(Selector {
            everything: true,
            audience: "x".to_owned(),
            ..Selector::default()
        }));
        assert!(!refused(Selector {
            everything: true,
            ..Selector::default()
        }));
    }
}
