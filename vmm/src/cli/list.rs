//! `aerostat list`: the guests that run. Each is asked on a thread of its own, so one that hangs holds nobody up.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::Context;
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Outcome,
    args::ListArgs,
    memory::amount::bytes,
    output,
    table::{self, Column},
    target,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{InstanceInfo, MemoryReport},
    },
    registry::{Guest, guests},
    vm::config::{MachineConfig, Mib},
};

/// How long a guest may take for an answer; the API itself takes less than a second.
const LIMIT: Duration = Duration::from_secs(2);
/// The state of a guest that does not say.
const NO_ANSWER: &str = "No answer";
/// For what is not known.
const UNKNOWN: &str = "-";

/// The answer, for machines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed {
    /// In the order of their names; empty if no guest runs.
    guests: Vec<Line>,
}

/// A guest. A field that is not known is left out.
#[derive(Debug, Serialize, ToSchema)]
struct Line {
    /// The name for `--id`.
    id: String,
    /// The process of the monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// The path of the API socket.
    #[schema(value_type = String)]
    api_sock: PathBuf,
    /// `Not started`, `Running` or `Paused`, as the API says, or `No answer`.
    state: String,
    /// The guest's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mib: Option<Mib>,
    /// Memory that the guest has given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    balloon_mib: Option<Mib>,
    /// Memory of the host behind guest RAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes: Option<u64>,
    /// For how long the process has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<u64>,
}

/// Does it.
pub(super) fn list(args: &ListArgs) -> Outcome {
    let mut guests = guests().context("Guests cannot be looked for")?;
    if args.guest.is_some() {
        guests = vec![target::choose(guests, args.guest.as_deref())?];
    }
    let asked = thread::scope(|scope| {
        let threads: Vec<_> = guests.iter().map(|guest| scope.spawn(|| ask(guest))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    });
    output::answer(args.json, &Listed { guests: asked }, human)
}

/// Asks a guest; `None` if it has ended meanwhile.
fn ask(guest: &Guest) -> Option<Line> {
    let mut line = Line {
        id: guest.id.clone(),
        pid: guest.pid,
        api_sock: fs::canonicalize(&guest.socket).unwrap_or_else(|_| guest.socket.clone()),
        state: NO_ANSWER.to_owned(),
        memory_mib: None,
        balloon_mib: None,
        resident_bytes: None,
        uptime_seconds: guest.pid.and_then(uptime).map(|uptime| uptime.as_secs()),
    };
    match fill(&mut line, guest) {
        Err(ClientError::NotThere(_) | ClientError::Stranger(_)) => None,
        // Its answers until then are shown.
        _ => Some(line),
    }
}

fn fill(line: &mut Line, guest: &Guest) -> Result<(), ClientError> {
    let client = Client::new(&guest.socket)?.to_user(Some(guest.user)).within(LIMIT);
    let info: InstanceInfo = client.get("/")?;
    line.state = info.state.name().to_owned();
    let machine: MachineConfig = client.get("/machine-config")?;
    line.memory_mib = Some(machine.mem_size_mib);
    let memory: MemoryReport = client.get("/memory")?;
    line.balloon_mib = memory.balloon_device.map(|balloon| balloon.actual_mib);
    line.resident_bytes = Some(memory.memory.host.guest_resident_bytes);
    Ok(())
}

/// How long a process has run.
fn uptime(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = Duration::from_secs(started_ticks(&stat)? / clock_ticks_per_second().max(1));
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    Some(now.saturating_sub(started))
}

/// When a process was started, in clock ticks since the host's boot: field 22 of proc_pid_stat(5). The second is a name,
/// in which anything may be.
fn started_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

fn human(listed: &Listed) -> String {
    if listed.guests.is_empty() {
        return "No guest runs that this user can reach: aerostat run starts one.\n".to_owned();
    }
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    let rows = listed.guests.iter().map(|line| {
        vec![
            line.id.clone(),
            known(line.pid.map(|pid| pid.to_string())),
            line.state.clone(),
            known(line.memory_mib.map(|memory| memory.to_string())),
            known(line.balloon_mib.map(|balloon| balloon.to_string())),
            known(line.resident_bytes.map(bytes)),
            known(line.uptime_seconds.map(short)),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let header = [
        Column::Left("ID"),
        Column::Right("PID"),
        Column::Left("STATE"),
        Column::Right("RAM"),
        Column::Right("BALLOON"),
        Column::Right("RESIDENT"),
        Column::Right("UPTIME"),
    ];
    table::columns(&header, &rows)
}

/// A time in its two largest units.
fn short(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_a_line_and_what_is_not_known_is_a_dash() {
        let web = Line {
            id: "web".to_owned(),
            pid: Some(4711),
            api_sock: "/run/aerostat/web.sock".into(),
            state: "Running".to_owned(),
            memory_mib: Some(Mib(1024)),
            balloon_mib: Some(Mib(256)),
            resident_bytes: Some(300 << 20),
            uptime_seconds: Some(3 * 3600 + 7 * 60),
        };
        let db = Line {
            id: "db".to_owned(),
            pid: None,
            api_sock: "/tmp/vm.sock".into(),
            state: NO_ANSWER.to_owned(),
            memory_mib: None,
            balloon_mib: None,
            resident_bytes: None,
            uptime_seconds: None,
        };
        let listed = Listed { guests: vec![web, db] };
        let text = human(&listed);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ID    PID  STATE           RAM  BALLOON  RESIDENT  UPTIME");
        assert_eq!(lines[1], "web  4711  Running    1024 MiB  256 MiB   300 MiB   3h07m");
        assert_eq!(lines[2], "db      -  No answer         -        -         -       -");
        assert_eq!(
            serde_json::to_value(&listed).unwrap()["guests"][1],
            serde_json::json!({"id": "db", "api_sock": "/tmp/vm.sock", "state": "No answer"})
        );
    }

    #[test]
    fn nobody_runs_is_a_sentence_and_an_empty_list() {
        let nobody = Listed { guests: Vec::new() };
        assert_eq!(human(&nobody), "No guest runs that this user can reach: aerostat run starts one.\n");
        assert_eq!(serde_json::to_string(&nobody).unwrap(), r#"{"guests":[]}"#);
    }

    #[test]
    fn times_have_two_units() {
        let all = [0, 59, 60, 3599, 3600, 86_399, 86_400, 40 * 86_400 + 3600].map(short);
        assert_eq!(all, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "40d01h"]);
    }

    #[test]
    fn a_name_of_a_process_does_not_move_its_start() {
        let fields: Vec<_> = (3..=52).map(|field| field.to_string()).collect();
        for name in ["aerostat", "a b) c", ") 1 2 3"] {
            assert_eq!(started_ticks(&format!("7 ({name}) {}", fields.join(" "))), Some(22), "{name}");
        }
        assert_eq!(started_ticks("7 (a) 3"), None);
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(uptime(me).is_some_and(|uptime| uptime < Duration::from_secs(86_400)));
    }
}
