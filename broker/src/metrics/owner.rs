//! SVIDs of operators that the owner of the broker's state was given.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The label of such an SVID.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct OwnerSvid {
    way: &'static str,
}

/// SVIDs of operators that the owner of the state was given.
pub(super) struct OwnerMetrics(Family<OwnerSvid, Counter>);

impl OwnerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::default();
        registry.register(
            "owner_svids",
            "SVIDs of operators that the owner of the broker's state was given; each is an alarm",
            Family::clone(&family),
        );
        Self(family)
    }

    pub(super) fn of(&self, way: &'static str) -> Counter {
        self.0.get_or_create(&OwnerSvid { way }).clone()
    }
}
