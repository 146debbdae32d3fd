//! The stages of a line's way, and what else is measured in time.

/// What a shard measures. The first five are stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardTime {
    /// From the notice that a file was written to, or from the head of a request, until the bytes are in
    /// memory.
    Read,
    /// Splitting, checking, labelling, encoding.
    Pipeline,
    /// From encoded to compressed: what waits for others to share its frame.
    Seal,
    /// From compressed to taken in by the log: what waits for room.
    Append,
    /// From there to durable.
    Sync,
    /// Of a group of frames: its write and sync alone.
    Commit,
    /// Of a request for lines: from its head to its answer.
    Answer,
}

/// What is measured of one sink. The first three are stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkTime {
    /// From durable until a sender sends it.
    Handoff,
    /// Until the sink's answer.
    Send,
    /// From there until the shard knows.
    Ack,
    /// Of each push, whatever the answer is.
    Push,
    /// From the notice of a write, or the arrival of a push, to the sink's answer.
    SourceToAck,
}

impl ShardTime {
    pub const COUNT: usize = 7;
    pub const ALL: [ShardTime; ShardTime::COUNT] = [
        ShardTime::Read,
        ShardTime::Pipeline,
        ShardTime::Seal,
        ShardTime::Append,
        ShardTime::Sync,
        ShardTime::Commit,
        ShardTime::Answer,
    ];

    /// The label value, where it is a stage.
    #[must_use]
    pub fn stage(self) -> Option<&'static str> {
        match self {
            ShardTime::Read => Some("read"),
            ShardTime::Pipeline => Some("pipeline"),
            ShardTime::Seal => Some("seal"),
            ShardTime::Append => Some("append"),
            ShardTime::Sync => Some("sync"),
            ShardTime::Commit | ShardTime::Answer => None,
        }
    }
}

impl SinkTime {
    pub const COUNT: usize = 5;
    pub const ALL: [SinkTime; SinkTime::COUNT] =
        [SinkTime::Handoff, SinkTime::Send, SinkTime::Ack, SinkTime::Push, SinkTime::SourceToAck];

    #[must_use]
    pub fn stage(self) -> Option<&'static str> {
        match self {
            SinkTime::Handoff => Some("handoff"),
            SinkTime::Send => Some("send"),
            SinkTime::Ack => Some("ack"),
            SinkTime::Push | SinkTime::SourceToAck => None,
        }
    }
}
