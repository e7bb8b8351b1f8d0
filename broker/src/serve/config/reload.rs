//! What a running broker takes of a file that was changed.

use super::Config;

impl Config {
    /// The sections in which `next` differs from this configuration, and which a broker takes when it
    /// starts and not while it runs. `[[operators]]` and `[[trust]]` are none of them.
    pub(in crate::serve) fn sections_for_a_restart(&self, next: &Self) -> Vec<&'static str> {
        // A field that comes to be must be put into one of the two.
        let Self {
            listen,
            identity,
            trust: _,
            bundle_endpoint,
            federation,
            bundle_limit,
            store,
            root_key_file,
            other_root_key_files,
            journal,
            bounds,
            beside_older_brokers,
            operators: _,
            break_glass,
            issuers,
            material,
            limits,
            connections,
            local_connections,
            connection_age,
            message_bytes,
            streams,
            traces,
        } = self;
        let same_keys = *root_key_file == next.root_key_file
            && *other_root_key_files == next.other_root_key_files;
        let same_revocation =
            *bounds == next.bounds && *beside_older_brokers == next.beside_older_brokers;
        let same_limits = *bundle_limit == next.bundle_limit
            && *limits == next.limits
            && *connections == next.connections
            && *local_connections == next.local_connections
            && *connection_age == next.connection_age
            && *message_bytes == next.message_bytes
            && *streams == next.streams;
        let sections = [
            ("listen", *listen == next.listen),
            ("identity", *identity == next.identity),
            ("bundle_endpoint", *bundle_endpoint == next.bundle_endpoint),
            ("federation", *federation == next.federation),
            ("store", *store == next.store),
            ("keys", same_keys),
            ("journal", *journal == next.journal),
            ("revocation and limits.max_task_ttl", same_revocation),
            ("break_glass", *break_glass == next.break_glass),
            ("issuers", *issuers == next.issuers),
            ("trust_material", *material == next.material),
            ("limits", same_limits),
            ("traces", *traces == next.traces),
        ];
        let changed = sections.into_iter().filter(|(_, same)| !same);
        changed.map(|(name, _)| name).collect()
    }
}
