//! From a request to its answer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use guest_agent::{Answer, Call, Reply, Request, SwapRequest};

use crate::flood::Floods;
use crate::hogs::Herd;
use crate::power::Ending;
use crate::region::Region;
use crate::{block, child, churn, hogs, kernel, net, swap};

/// Most bytes that `/dev/hwrng` is asked for at once.
const MOST_RANDOM: u32 = 4096;

/// What lives from one request to the next.
#[derive(Default)]
pub(crate) struct State {
    regions: BTreeMap<String, Region>,
    churn: Option<churn::Threads>,
    floods: Floods,
    hogs: Option<Herd>,
}

/// Serves one line. With the reply comes how the machine is to end after it, if it is.
pub(crate) fn line(state: &mut State, line: &str) -> (Reply, Option<Ending>) {
    let call: Call = match serde_json::from_str(line) {
        Ok(call) => call,
        Err(error) => {
            return (Reply { id: 0, answer: Answer::Error(format!("not a request: {error}")) }, None);
        }
    };
    let ending = match call.request {
        Request::PowerOff => Some(Ending::PowerOff),
        Request::Reboot => Some(Ending::Reset),
        Request::Panic => Some(Ending::Panic),
        _ => None,
    };
    let answer = catch_unwind(AssertUnwindSafe(|| answer(state, call.request)))
        .unwrap_or_else(|_| Err("the agent panicked while it served this request".to_owned()))
        .unwrap_or_else(Answer::Error);
    (Reply { id: call.id, answer }, ending)
}

fn answer(state: &mut State, request: Request) -> Result<Answer, String> {
    match request {
        Request::Ping => Ok(Answer::Pong { uptime_ms: kernel::uptime_ms() }),
        Request::Meminfo => kernel::meminfo().map(Answer::Counters),
        Request::Vmstat { names } => kernel::vmstat(&names).map(Answer::Counters),
        Request::Allocate { name, mib, pages } => {
            let mut region = Region::map(mib, pages)?;
            let micros = region.touch();
            Ok(state.keep(name, region, micros))
        }
        Request::Fill { name, leave_mib, pages } => {
            let start = kernel::uptime_ms();
            let region = Region::fill(leave_mib, pages)?;
            Ok(state.keep(name, region, (kernel::uptime_ms() - start) * 1000))
        }
        Request::Touch { mib, pages } => {
            let mut region = Region::map(mib, pages)?;
            Ok(Answer::Region { mib, micros: region.touch() })
        }
        Request::Write { name, seed } => {
            state.region(&name)?.write(seed);
            Ok(Answer::Done)
        }
        Request::Verify { name, seed } => Ok(Answer::Verified(state.region(&name)?.verify(seed))),
        Request::Punch { name, every, offset } => {
            let pages = state.region(&name)?.punch(every, offset)?;
            Ok(Answer::Punched { pages })
        }
        Request::Free { name } => {
            state.regions.remove(&name).map(|_| Answer::Done).ok_or_else(|| unknown(&name))
        }
        Request::Consume { mib } => child::consume(mib),
        Request::ChurnStart { mib, threads } => {
            if state.churn.is_some() {
                return Err("churn threads run already".to_owned());
            }
            state.churn = Some(churn::Threads::start(mib, threads)?);
            Ok(Answer::Done)
        }
        Request::ChurnStatus => {
            let threads = state.churn.as_ref().ok_or("no churn threads run")?;
            Ok(Answer::Churn(threads.status()))
        }
        Request::ChurnStop => {
            let threads = state.churn.take().ok_or("no churn threads run")?;
            Ok(Answer::Churn(threads.stop()))
        }
        Request::BlockList => block::list().map(Answer::Blocks),
        Request::BlockWrite { device, offset, bytes, seed } => {
            block::write(&device, offset, bytes, seed).map(|()| Answer::Done)
        }
        Request::BlockVerify { device, offset, bytes, seed } => {
            block::verify(&device, offset, bytes, seed).map(Answer::Verified)
        }
        Request::BlockFlush { device } => block::flush(&device).map(|()| Answer::Done),
        Request::Net(request) => net::serve(&mut state.floods, request),
        // Turning swap on locks all that is mapped.
        Request::Swap(SwapRequest::On { .. }) if state.maps_memory() => {
            Err("swap is turned on before regions are allocated, which would never be swapped".to_owned())
        }
        Request::Swap(request) => swap::serve(request),
        Request::Hogs(request) => hogs::serve(&mut state.hogs, request),
        Request::Random { bytes } => random(bytes).map(Answer::Text),
        Request::Cpus => kernel::cpus().map(Answer::Cpus),
        Request::ReadFile { path } => kernel::read(&path).map(Answer::Text),
        Request::WriteFile { path, text } => kernel::write(&path, &text).map(|()| Answer::Done),
        Request::Run { command } => kernel::run(&command).map(Answer::Text),
        Request::DropCaches => kernel::drop_caches().map(|()| Answer::Done),
        Request::Compact => kernel::write("/proc/sys/vm/compact_memory", "1").map(|()| Answer::Done),
        Request::Sleep { ms } => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(Answer::Done)
        }
        Request::KernelLog { bytes } => kernel::log(bytes).map(Answer::Text),
        Request::PowerOff | Request::Reboot | Request::Panic => Ok(Answer::Done),
    }
}

impl State {
    fn region(&mut self, name: &str) -> Result<&mut Region, String> {
        self.regions.get_mut(name).ok_or_else(|| unknown(name))
    }

    fn maps_memory(&self) -> bool {
        !self.regions.is_empty() || self.churn.is_some()
    }

    fn keep(&mut self, name: String, region: Region, micros: u64) -> Answer {
        let mib = region.mib();
        self.regions.insert(name, region);
        Answer::Region { mib, micros }
    }
}

fn unknown(name: &str) -> String {
    format!("there is no region {name:?}")
}

fn random(bytes: u32) -> Result<String, String> {
    use std::io::Read;
    let mut buffer = vec![0_u8; bytes.min(MOST_RANDOM) as usize];
    let mut device =
        std::fs::File::open("/dev/hwrng").map_err(|error| format!("cannot open /dev/hwrng: {error}"))?;
    device.read_exact(&mut buffer).map_err(|error| format!("cannot read /dev/hwrng: {error}"))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
