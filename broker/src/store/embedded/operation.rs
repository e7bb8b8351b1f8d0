//! The operations that the embedded store's file is made of, as Protocol Buffers messages. Times
//! are milliseconds since the epoch.

/// A record of the file, which has one change.
#[derive(Clone, prost::Message)]
pub(super) struct Operation {
    #[prost(
        oneof = "kind::Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18"
    )]
    pub(super) kind: Option<kind::Kind>,
}

/// A document was written, or removed if there is no value.
#[derive(Clone, prost::Message)]
pub(super) struct Document {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) value: Option<Vec<u8>>,
}

/// A single-use name was taken.
#[derive(Clone, prost::Message)]
pub(super) struct Used {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) name: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(super) until_ms: i64,
}

/// A task got a place among its workload's, and on the attendance list.
#[derive(Clone, prost::Message)]
pub(super) struct Place {
    #[prost(string, tag = "1")]
    pub(super) workload: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) task: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) deadline_ms: i64,
    #[prost(int64, tag = "4")]
    pub(super) due_ms: i64,
}

/// A task was written, with its first token.
#[derive(Clone, prost::Message)]
pub(super) struct NewTask {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) record: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) retain_until_ms: i64,
    #[prost(message, optional, tag = "4")]
    pub(super) token: Option<NewToken>,
}

/// A token of a task was written.
#[derive(Clone, prost::Message)]
pub(super) struct NewToken {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) record: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) retain_until_ms: i64,
}

/// Another certificate may act for a task.
#[derive(Clone, prost::Message)]
pub(super) struct Binding {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) binding: Vec<u8>,
    /// The number of the newest that stay; 0 if the operation is of a version without this limit.
    #[prost(uint32, tag = "3")]
    pub(super) limit: u32,
}

/// A task was taken off the lists.
#[derive(Clone, prost::Message)]
pub(super) struct Release {
    #[prost(string, tag = "1")]
    pub(super) workload: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) task: Vec<u8>,
}

/// A task on the attendance list got another time.
#[derive(Clone, prost::Message)]
pub(super) struct Due {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(super) due_ms: i64,
}

/// An entry was appended to the revocation log.
#[derive(Clone, prost::Message)]
pub(super) struct Entry {
    #[prost(uint64, tag = "1")]
    pub(super) position: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) entry: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) until_ms: i64,
}

/// A lease was written, or removed if there is no record.
#[derive(Clone, prost::Message)]
pub(super) struct Lease {
    #[prost(string, tag = "1")]
    pub(super) engine: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) record: Option<Vec<u8>>,
    #[prost(int64, tag = "4")]
    pub(super) due_ms: i64,
}

/// A task has had a lease.
#[derive(Clone, prost::Message)]
pub(super) struct Had {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) lease: Vec<u8>,
}

/// The tokens of a task were removed. Files of earlier versions have this operation; now a task's
/// tokens go when it ends.
#[derive(Clone, prost::Message)]
pub(super) struct Reaped {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
}

/// The agreement on bounds was written.
#[derive(Clone, prost::Message)]
pub(super) struct Agreement {
    #[prost(uint64, tag = "1")]
    pub(super) version: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// A task has ended, and this remains of its record.
#[derive(Clone, prost::Message)]
pub(super) struct Ended {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) remains: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) retain_until_ms: i64,
}

/// Entries were deleted from the revocation log before their time was over.
#[derive(Clone, prost::Message)]
pub(super) struct Dropped {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) positions: Vec<u64>,
}

/// An order was written.
#[derive(Clone, prost::Message)]
pub(super) struct NewOrder {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) dispatcher: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) record: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) listed_until_ms: i64,
    #[prost(int64, tag = "5")]
    pub(super) retain_until_ms: i64,
    /// The claim, in a file that was compacted.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(super) claim: Option<Vec<u8>>,
}

/// An order was claimed, and its task was written.
#[derive(Clone, prost::Message)]
pub(super) struct Claim {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) claim: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(super) retain_until_ms: i64,
    #[prost(message, optional, tag = "3")]
    pub(super) task: Option<NewTask>,
}

/// An order was taken off the lists.
#[derive(Clone, prost::Message)]
pub(super) struct Unlisted {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) order: Vec<u8>,
}

pub(super) mod kind {
    /// A change to the state.
    #[derive(Clone, prost::Oneof)]
    pub(in super::super) enum Kind {
        #[prost(message, tag = "1")]
        Document(super::Document),
        #[prost(message, tag = "2")]
        Used(super::Used),
        #[prost(message, tag = "3")]
        Place(super::Place),
        #[prost(message, tag = "4")]
        Task(super::NewTask),
        #[prost(message, tag = "5")]
        Token(super::NewToken),
        #[prost(message, tag = "6")]
        Binding(super::Binding),
        #[prost(message, tag = "7")]
        Release(super::Release),
        #[prost(message, tag = "8")]
        Due(super::Due),
        #[prost(message, tag = "9")]
        Entry(super::Entry),
        #[prost(message, tag = "10")]
        Lease(super::Lease),
        #[prost(message, tag = "11")]
        Reaped(super::Reaped),
        #[prost(message, tag = "12")]
        Had(super::Had),
        #[prost(message, tag = "13")]
        Agreement(super::Agreement),
        #[prost(message, tag = "14")]
        Ended(super::Ended),
        #[prost(message, tag = "15")]
        Dropped(super::Dropped),
        #[prost(message, tag = "16")]
        Order(super::NewOrder),
        #[prost(message, tag = "17")]
        Claim(super::Claim),
        #[prost(message, tag = "18")]
        Unlisted(super::Unlisted),
    }
}
