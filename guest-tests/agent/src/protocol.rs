//! The messages. Sizes are MiB or bytes, times ns, µs or ms, as the names say.

mod hogs;
mod net;
mod swap;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::hogs::{Content, Hogs, HogsRequest};
pub use self::net::{Echoed, Flood, Flooded, Link, NetRequest, Pinged};
pub use self::swap::{NbdDevice, SwapRequest};

/// Starts a line from the host to the guest.
pub const TO_GUEST: &str = "@> ";
/// Starts a line from the guest to the host; may follow console text on the same line.
pub const FROM_GUEST: &str = "@< ";

/// One request with its number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the host, repeated in the reply.
    pub id: u32,
    /// What to do.
    pub request: Request,
}

/// One answer with the number of its request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number; 0 for [`Answer::Ready`].
    pub id: u32,
    /// What came of it.
    pub answer: Answer,
}

/// Which page size the guest's kernel is asked to use for a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pages {
    /// As the kernel likes.
    #[default]
    Any,
    /// 4 KiB only (`MADV_NOHUGEPAGE`): needed where single pages are to be freed.
    Base,
    /// 2 MiB where possible (`MADV_HUGEPAGE`).
    Huge,
}

/// What the host can ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answered at once with [`Answer::Pong`].
    Ping,
    /// `/proc/meminfo`, in KiB.
    Meminfo,
    /// `/proc/vmstat`; all of it where `names` is empty.
    Vmstat {
        /// Which counters.
        #[serde(default)]
        names: Vec<String>,
    },
    /// Maps anonymous memory and touches every page.
    Allocate {
        /// Name for later requests.
        name: String,
        /// Size.
        mib: u64,
        /// Page size.
        #[serde(default)]
        pages: Pages,
    },
    /// Allocates until about `leave_mib` of MemAvailable are left. MemFree would not do: the kernel keeps a
    /// part of it (up to 5 % of RAM) for itself, and kills before it gives that away.
    Fill {
        /// Name for later requests.
        name: String,
        /// What to leave.
        leave_mib: u64,
        /// Page size.
        #[serde(default)]
        pages: Pages,
    },
    /// Writes the pattern of `seed` to every page of a region.
    Write {
        /// Which region.
        name: String,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Checks every page of a region that was not punched out since.
    Verify {
        /// Which region.
        name: String,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Gives every `every`-th page of a region back to the kernel, from page `offset` on.
    Punch {
        /// Which region.
        name: String,
        /// Distance between freed pages; at least 1.
        every: u64,
        /// First freed page.
        #[serde(default)]
        offset: u64,
    },
    /// Unmaps a region.
    Free {
        /// Which region.
        name: String,
    },
    /// A child allocates and touches this much and ends; the OOM killer takes the child first.
    Consume {
        /// Size.
        mib: u64,
    },
    /// Times touching fresh memory, then unmaps it.
    Touch {
        /// Size.
        mib: u64,
        /// Page size.
        #[serde(default)]
        pages: Pages,
    },
    /// Starts threads that write and check counters in memory of their own until `churn_stop`.
    ChurnStart {
        /// Size, all threads together.
        mib: u64,
        /// Number of threads, 1 to 64.
        threads: u32,
    },
    /// How far the churn threads are.
    ChurnStatus,
    /// Ends the churn threads.
    ChurnStop,
    /// Lists `/sys/block`.
    BlockList,
    /// Writes the pattern to a block device and fsyncs it.
    BlockWrite {
        /// Name without `/dev/`.
        device: String,
        /// Byte offset; multiple of 4096.
        offset: u64,
        /// Bytes; multiple of 4096.
        bytes: u64,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Drops caches, reads a block device and checks the pattern.
    BlockVerify {
        /// Name without `/dev/`.
        device: String,
        /// Byte offset; multiple of 4096.
        offset: u64,
        /// Bytes; multiple of 4096.
        bytes: u64,
        /// Seed of the pattern.
        seed: u64,
    },
    /// fsyncs a block device.
    BlockFlush {
        /// Name without `/dev/`.
        device: String,
    },
    /// Something of the network.
    Net(NetRequest),
    /// Something of swap.
    Swap(SwapRequest),
    /// Something of processes that use more memory than there is.
    Hogs(HogsRequest),
    /// Reads `/dev/hwrng`; the answer is hex.
    Random {
        /// How many, at most 4096.
        bytes: u32,
    },
    /// Number of CPUs online.
    Cpus,
    /// Reads a file as text (64 KiB at most).
    ReadFile {
        /// Its path.
        path: String,
    },
    /// Writes text to an existing file.
    WriteFile {
        /// Its path.
        path: String,
        /// What to write.
        text: String,
    },
    /// Runs a command by `/bin/sh`, where the guest has one; answered with what it prints.
    Run {
        /// As on a terminal.
        command: String,
    },
    /// sync, then `drop_caches` 3.
    DropCaches,
    /// `compact_memory`.
    Compact,
    /// Sleeps in the guest.
    Sleep {
        /// How long.
        ms: u64,
    },
    /// The end of the kernel's log.
    KernelLog {
        /// At most this many bytes.
        bytes: u32,
    },
    /// Answers, then powers the machine off.
    PowerOff,
    /// Answers, then resets the machine.
    Reboot,
    /// Answers, then makes the kernel panic.
    Panic,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The agent is up; sent once, unasked.
    Ready(Ready),
    /// Done, nothing to tell.
    Done,
    /// To [`Request::Ping`].
    Pong {
        /// Guest's monotonic clock.
        uptime_ms: u64,
    },
    /// Named numbers.
    Counters(BTreeMap<String, u64>),
    /// A region was made or touched.
    Region {
        /// Its size.
        mib: u64,
        /// Time for touching it, by the guest's clock.
        micros: u64,
    },
    /// To [`Request::Verify`] and [`Request::BlockVerify`].
    Verified(Verified),
    /// To [`Request::Punch`].
    Punched {
        /// How many 4 KiB pages were given back.
        pages: u64,
    },
    /// To [`Request::Consume`].
    Consumed {
        /// Whether the child came to its end by itself.
        survived: bool,
        /// The signal that ended it otherwise.
        signal: Option<i32>,
    },
    /// To the churn requests.
    Churn(Churn),
    /// To [`Request::BlockList`].
    Blocks(Vec<Block>),
    /// To [`NetRequest::Up`].
    Link(Link),
    /// To [`NetRequest::Ping`].
    Pinged(Pinged),
    /// To [`NetRequest::Echo`].
    Echoed(Echoed),
    /// To [`NetRequest::FloodStop`].
    Flooded(Flooded),
    /// To [`SwapRequest::Connect`].
    Connected(NbdDevice),
    /// To the hog requests that tell.
    Hogs(Hogs),
    /// Text of a file, a log or hex digits.
    Text(String),
    /// To [`Request::Cpus`].
    Cpus(u32),
    /// What went wrong, in one sentence.
    Error(String),
}

/// Says that the agent is up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Guest's monotonic clock when the agent was ready.
    pub uptime_ms: u64,
    /// Kernel release.
    pub kernel: String,
    /// Modules that were loaded.
    pub modules: u32,
    /// Modules that were not, with the reason.
    pub failed: Vec<String>,
}

/// Result of a check against the pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Pages checked.
    pub pages: u64,
    /// Pages that hold something else.
    pub wrong: u64,
    /// Index of the first such page.
    pub first_wrong: Option<u64>,
}

/// Work of the churn threads so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// Pages checked and rewritten, all threads together.
    pub pages: u64,
    /// Pages that held something else.
    pub errors: u64,
    /// The longest that a page took.
    pub longest_ns: u64,
}

/// How long something took, over many times. Quantiles are right to a 64th.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many times.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_ns: u64,
    /// 99 of 100 took at most this.
    pub p99_ns: u64,
    /// 999 of 1000 took at most this.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// One block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Name without `/dev/`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether the device says that it cannot be written.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_one_line_and_optional_fields_may_be_missing() {
        let call = Call { id: 7, request: Request::WriteFile { path: "/p".into(), text: "a\nb".into() } };
        assert!(!serde_json::to_string(&call).unwrap_or_default().contains('\n'));

        let call: Call = serde_json::from_str(r#"{"id":1,"request":{"allocate":{"name":"a","mib":4}}}"#)
            .expect("a request without page size");
        let expected = Request::Allocate { name: "a".into(), mib: 4, pages: Pages::Any };
        assert_eq!(call.request, expected);
    }
}
