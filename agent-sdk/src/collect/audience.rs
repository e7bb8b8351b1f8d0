//! The audience of the tokens that are collected for a broker.
//!
//! E12: a token is good wherever its audience is, so that a broker that chose the audience freely
//! would be handed tokens for other services. So the agent's side says which audience it is.

use crate::settings::Settings;

/// What the agent knows of the broker, by which it judges the audience that the broker names.
#[derive(Clone, Debug, Default)]
pub(crate) struct AudiencePin {
    /// The audience that the settings name, whatever the broker does.
    set: Option<String>,
    /// The names that are the broker's own: its host, and its trust domain.
    own: Vec<String>,
}

impl AudiencePin {
    /// The pin of these settings, for a broker at `place` (`host:port`) in this trust domain.
    pub(crate) fn new(settings: &Settings, place: &str, trust_domain: &str) -> Self {
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        Self {
            set: settings.oidc_audience.clone(),
            own: vec![host.to_owned(), trust_domain.to_owned()],
        }
    }

    /// Returns the audience that tokens get: the one that is set, or else the one that the broker
    /// names if that is a name of the broker or of its trust domain. `None` is a foreign audience.
    pub(crate) fn audience<'a>(&'a self, named: &'a str) -> Option<&'a str> {
        match &self.set {
            Some(set) => Some(set),
            None if named.is_empty() => Some(named),
            None => {
                let host = host_of(named);
                let is_below = |own: &str| {
                    host.strip_suffix(own)
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                let mut own = self.own.iter().filter(|own| !own.is_empty());
                own.any(|own| is_below(own)).then_some(named)
            }
        }
    }
}

/// Returns the host of an audience that is a URL, or the audience up to its first `/` or `:`.
fn host_of(audience: &str) -> &str {
    let rest = audience
        .split_once("://")
        .map_or(audience, |(_, rest)| rest);
    rest.split(['/', ':']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(set: Option<&str>) -> AudiencePin {
        let settings = Settings {
            oidc_audience: set.map(str::to_owned),
            ..Settings::default()
        };
        AudiencePin::new(&settings, "broker.internal:7443", "example.org")
    }

    #[test]
    fn e12_a_broker_gets_no_token_for_an_audience_that_is_not_its_own() {
        for foreign in [
            "sts.amazonaws.com",
            "https://vault.example.com",
            "https://example.org.attacker.test/x",
            "notexample.org",
            "https://attacker.test/example.org",
            "attacker.test:example.org",
            "api://AzureADTokenExchange",
        ] {
            assert_eq!(pin(None).audience(foreign), None, "{foreign}");
        }
        for own in [
            "example.org",
            "sundew.example.org",
            "https://sundew.example.org/tokens",
            "spiffe://example.org/sundew/broker",
            "broker.internal",
            "https://broker.internal:7443",
        ] {
            assert_eq!(pin(None).audience(own), Some(own));
        }
    }

    #[test]
    fn an_audience_that_is_set_is_the_one_whatever_the_broker_names() {
        for named in ["", "sts.amazonaws.com", "sundew.example.org"] {
            assert_eq!(pin(Some("sundew")).audience(named), Some("sundew"));
        }
        // A broker without issuers names none.
        assert_eq!(pin(None).audience(""), Some(""));
    }
}
