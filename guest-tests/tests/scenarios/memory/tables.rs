//! The allocator's tables say one thing, whoever asks: API, Prometheus, command line.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, ensure};
use guest_tests::testvm::wait_until;
use guest_tests::{Pages, TestVm, http, paths};
use libtest_mimic::Trial;
use serde_json::{Map, Value, json};
use vmm::cli::JSON_VERSION;

use super::{number, sum};
use crate::{SPARE_MIB, guest, ours};

const FRAMES_PER_BLOCK: u64 = 512;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(ours("memory::tables_agree_whoever_asks", agree));
    trials.extend(ours("memory::watermarks_are_those_asked_for_and_cost_the_guest_nothing", watermarks));
    trials
}

/// `GET /memory` and its parts.
#[derive(Default, PartialEq)]
struct Tables {
    memory: Value,
    buddy: Value,
    types: Value,
    zone: Value,
    slabs: Value,
}

impl Tables {
    fn read(vm: &TestVm) -> anyhow::Result<Self> {
        let get = |path| vm.control.api("GET", path, Value::Null);
        Ok(Self {
            memory: get("/memory")?,
            buddy: get("/memory/buddy")?,
            types: get("/memory/types")?,
            zone: get("/memory/zone")?,
            slabs: get("/memory/slabs")?,
        })
    }

    /// Of a guest that stands still, once the stash has gone back.
    fn settled(vm: &mut TestVm) -> anyhow::Result<Self> {
        vm.control.pause()?;
        let mut tables = Self::default();
        let still = wait_until(|| {
            let before = std::mem::replace(&mut tables, Self::read(vm)?);
            Ok(before == tables && number(&tables.memory, "/stash/blocks")? == 0)
        })?;
        ensure!(still, "the memory of a paused guest does not come to rest");
        Ok(tables)
    }
}

/// The numbers at one place of each element of a list.
fn numbers(answer: &Value, list: &str, path: &str) -> anyhow::Result<Vec<u64>> {
    let list = answer.pointer(list).and_then(Value::as_array).context("a list is missing")?;
    list.iter().map(|element| number(element, path)).collect()
}

fn agree() -> anyhow::Result<()> {
    // The holes are looked at, so nothing may make whole blocks of them.
    let mut vm = guest()?.cpus(2).argument("--compaction").argument("off").start()?;
    vm.agent.allocate("comb", 128, Pages::Base)?;
    vm.agent.punch("comb", 2, 0)?;
    vm.balloon(100)?;
    let tables = Tables::settled(&mut vm)?;
    parts_agree(&tables)?;
    prometheus_agrees(&tables, &http::text(vm.control.socket()?, "/metrics")?)?;
    commands_agree(&tables, &vm)?;
    vm.control.resume()?;
    vm.shut_down()
}

fn parts_agree(tables: &Tables) -> anyhow::Result<()> {
    let Tables { memory, buddy, types, zone, slabs } = tables;
    let frames = number(zone, "/frames")?;
    ensure!(frames == number(memory, "/arena/frames")?, "the arena has {frames} frames, or {memory}");
    ensure!(frames == sum(types, "/frames_by_type")?, "{frames} frames, by type {types}");
    let by_type = (&types["frames_by_type"], &memory["arena"]["frames_by_type"]);
    ensure!(by_type.0 == by_type.1, "frames by type: {} and {}", by_type.0, by_type.1);

    let free = number(buddy, "/free_frames")?;
    ensure!(free == number(zone, "/free")?, "{free} frames are free, or {zone}");
    let in_chunks: u64 =
        numbers(buddy, "/orders", "/free_chunks")?.iter().enumerate().map(|(order, n)| n << order).sum();
    ensure!(free == in_chunks, "{free} frames are free, {in_chunks} in chunks");
    let held = |path| anyhow::Ok(numbers(zone, "/cpus", path)?.iter().sum::<u64>());
    let blocks = held("/ready_blocks")? + held("/freed_blocks")?;
    let in_lists = held("/ready_frames")? + held("/freed_frames")? + blocks * FRAMES_PER_BLOCK;
    let tagged = number(types, "/frames_by_type/buddy")?;
    ensure!(tagged == free + in_lists, "{tagged} frames are Buddy, {free} free and {in_lists} in lists");

    let whole = number(types, "/whole_free_blocks")?;
    let largest = number(buddy, "/orders/9/free_chunks")?;
    ensure!(whole > 0 && whole == largest, "{whole} whole blocks, {largest} chunks of order 9");
    let free_blocks = number(memory, "/arena/free_blocks")?;
    ensure!(free_blocks == whole + blocks, "{free_blocks} free blocks, {whole} and {blocks} in lists");

    let charges = types["charges"].as_array().into_iter().flatten();
    let guest =
        charges.into_iter().find(|charge| charge["owner"] == 1).context("the guest is not charged")?;
    let charged = number(guest, "/charged")?;
    let used = number(types, "/frames_by_type/guest")? + number(types, "/frames_by_type/balloon")?;
    ensure!(charged == used, "the guest is charged {charged} frames and has {used}");
    ensure!(charged == number(memory, "/arena/charged_frames")?, "{charged} are charged, or {memory}");
    let holes = number(guest, "/frames/balloon")?;
    ensure!(holes > 0 && holes == number(memory, "/guest/holes")?, "{holes} holes are charged: {memory}");

    let (counts, sizes) =
        (numbers(slabs, "/caches", "/slabs")?, numbers(slabs, "/caches", "/frames_per_slab")?);
    let in_slabs: u64 = counts.iter().zip(&sizes).map(|(count, size)| count * size).sum();
    ensure!(in_slabs == number(types, "/frames_by_type/slab")?, "{in_slabs} frames in slabs: {types}");
    Ok(())
}

/// Every line is a comment or a sample, and the samples are what the API says.
fn prometheus_agrees(tables: &Tables, text: &str) -> anyhow::Result<()> {
    ensure!(text.ends_with("\n# EOF\n"), "the text breaks off: {text}");
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
        ensure!(value.parse::<f64>().is_ok(), "not a number: {line}");
        ensure!(samples.insert(name, value).is_none(), "twice: {line}");
    }
    let Tables { memory, buddy, types, zone, .. } = tables;
    for (name, answer, path) in [
        ("arena_frames", memory, "/arena/frames"),
        ("frames{page_type=\"guest\"}", memory, "/arena/frames_by_type/guest"),
        ("frames{page_type=\"balloon\"}", types, "/frames_by_type/balloon"),
        ("ballooned_frames", memory, "/guest/ballooned_frames"),
        ("faults_total", memory, "/faults/total"),
        ("buddy_free_frames", buddy, "/free_frames"),
        ("free_chunks{order=\"9\"}", buddy, "/orders/9/free_chunks"),
        ("unusable_free_index{order=\"9\"}", buddy, "/orders/9/unusable_free_index"),
        ("whole_free_blocks", types, "/whole_free_blocks"),
        ("watermark_frames{watermark=\"low\"}", zone, "/low"),
        ("refills_total", zone, "/counters/refills"),
    ] {
        let (expected, name) = (number(answer, path)?.to_string(), format!("aerostat_memory_{name}"));
        let sample = samples.get(name.as_str()).copied();
        ensure!(sample == Some(&expected), "{name} is {sample:?}, the API says {expected}");
    }
    Ok(())
}

/// `--json` is the API's answer with a version; without it there is a table.
fn commands_agree(tables: &Tables, vm: &TestVm) -> anyhow::Result<()> {
    for (part, answer, words) in [
        ("buddy", &tables.buddy, "a request"),
        ("types", &tables.types, "free chunks by order"),
        ("zone", &tables.zone, "watermarks"),
        ("slabs", &tables.slabs, "slab"),
    ] {
        let mut json: Map<String, Value> = serde_json::from_str(&memory_command(vm, &[part, "--json"])?)?;
        ensure!(json.remove("version") == Some(json!(JSON_VERSION)), "memory {part} --json has no version");
        ensure!(
            Value::Object(json.clone()) == *answer,
            "memory {part} --json says {json:?}, the API {answer}"
        );
        let table = memory_command(vm, &[part])?;
        ensure!(table.contains(words), "memory {part} prints no \"{words}\": {table}");
    }
    Ok(())
}

/// What `aerostat memory` says.
pub(super) fn memory_command(vm: &TestVm, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(paths::aerostat());
    command.arg("memory").args(arguments).arg("--api-sock").arg(vm.control.socket()?);
    let output = command.output().context("cannot run aerostat")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn watermarks() -> anyhow::Result<()> {
    let mut vm = guest()?.argument("--watermarks").argument("64M,65540K,128").start()?;
    let config = vm.control.api("GET", "/vm/config", Value::Null)?;
    let asked = json!({ "min_kib": 65_536, "low_kib": 65_540, "high_kib": 131_072 });
    ensure!(config["memory"]["watermarks"] == asked, "the configuration is {config}");

    // All of guest RAM may be in use, and nothing is low.
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    let Tables { zone, .. } = Tables::settled(&mut vm)?;
    for (name, frames) in [("min", 16_384), ("low", 16_385), ("high", 32_768)] {
        ensure!(zone[name] == frames, "{name} is to be {frames} frames: {zone}");
    }
    let (free, high) = (number(&zone, "/free")?, number(&zone, "/high")?);
    ensure!(free >= high, "only {free} frames are free: {zone}");
    for count in ["/counters/low_hits", "/counters/failed", "/reserve/throttled"] {
        ensure!(number(&zone, count)? == 0, "{count} is not 0: {zone}");
    }
    vm.control.resume()?;
    vm.shut_down()
}
