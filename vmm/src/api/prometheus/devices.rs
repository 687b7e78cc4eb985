//! The counters of virtio devices and buses, as in the metrics file: a family for each name, with the
//! device as a label.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use serde_json::{Map, Value};

use super::family::Samples;

/// What the counters mean, by name.
const HELP: &[(&str, &str)] = &[
    ("activations", "Times the driver brought the device to life"),
    ("activations_refused", "Activations refused, because a queue was set up wrongly"),
    ("bad_checksums", "Frames of the guest with a wrong checksum"),
    ("bad_commands", "Hinting commands of the guest that were no number"),
    ("bad_config_writes", "Writes of the guest to configuration that is not the driver's"),
    ("bad_kicks", "Kicks of queues that do not exist"),
    ("bad_page_buffers", "Buffers of page numbers that make no sense"),
    ("bad_ranges", "Ranges reported or hinted free that make no sense"),
    ("bad_register_writes", "Register writes of wrong width, at no register, or at the wrong time"),
    ("bad_requests", "Requests that make no sense"),
    ("bad_stats_buffers", "Statistics buffers that make no sense"),
    ("bad_status_writes", "Status writes out of order, or that clear bits"),
    ("bytes", "Random bytes handed out"),
    ("bytes_in", "Bytes of frames from the guest"),
    ("bytes_out", "Bytes of frames to the guest"),
    ("clock_errors", "Times that KVM did not take the word that the guest had stood still"),
    ("closed", "Connections closed in order"),
    ("deflate_buffers", "Buffers of pages to take back"),
    ("deflated_pages", "Pages taken back"),
    ("discarded_bytes", "Bytes discarded"),
    ("discards", "Discards served"),
    ("errors", "Interrupts that could not be raised"),
    ("evicted", "Connections that were silent, given up for new ones"),
    ("exits_io_in", "Times that the guest left its CPUs for reads of ports"),
    ("exits_io_out", "Times that the guest left its CPUs for writes to ports"),
    ("exits_mmio_read", "Times that the guest left its CPUs for reads of addresses of devices"),
    ("exits_mmio_write", "Times that the guest left its CPUs for writes to addresses of devices"),
    ("failures", "Times that the guest left its CPUs for good"),
    ("features_refused", "Feature sets refused"),
    ("flushes", "Flushes served"),
    ("frames_in", "Frames from the guest, those that were dropped included"),
    ("frames_out", "Frames to the guest"),
    ("hinted_pages", "Pages hinted free that were freed"),
    ("hinted_ranges", "Ranges hinted free"),
    ("host_errors", "Requests that the host could not serve"),
    ("inflate_buffers", "Buffers of pages to give up"),
    ("inflated_pages", "Pages given up"),
    ("interrupts", "Interrupts of the device"),
    ("limited_bytes", "Bytes of the console that came faster than the limit lets them"),
    ("lost_bytes", "Bytes of the console that nobody read, or that could not be written"),
    ("malformed", "Frames of the guest that are not what they say, and fragments"),
    ("missed_reads", "Reads of ports that are not the device's"),
    ("missed_writes", "Writes to ports that are not the device's"),
    ("no_room", "Times the guest had no room for what was to be sent"),
    ("not_for_us", "Frames that are not from the link's guest to its peer"),
    ("opened", "Connections that the service took"),
    ("poisoned_ranges", "Ranges kept, because the guest wants its poison value back"),
    ("queue_errors", "Rings that made no sense; each stopped the device until its reset"),
    ("rate_limited", "Times that the rate limiter stopped requests"),
    ("read_bytes", "Bytes read"),
    ("reads", "Reads served"),
    (
        "refused",
        "Refused: requests beyond the end, over a limit, or writes to a read-only disk; connections when all are in use",
    ),
    ("refused_pages", "Pages refused: outside RAM, twice the same, or never given up"),
    ("register_kicks", "Kicks that came through the register rather than through the kernel"),
    ("register_reads", "Reads of registers that left the guest; none are to"),
    ("replies_dropped", "Answers to single frames that were not fetched"),
    ("reported_pages", "Pages reported free that were freed"),
    ("reported_ranges", "Ranges reported free"),
    ("requests", "Requests served"),
    ("reset", "Connections reset by the guest, or gone with a reset of the device"),
    ("resets", "Resets by the driver, or of the guest"),
    ("rx_bad_chains", "Receive chains given back empty: not writable, outside RAM, or without a byte"),
    ("rx_bytes", "Bytes that the guest received"),
    ("rx_dropped_too_large", "Frames for the guest that did not fit into its buffers"),
    ("rx_host_errors", "Reads of frames that the host refused"),
    ("rx_no_buffers", "Times that the guest had no receive buffer left"),
    ("rx_packets", "Frames that the guest received"),
    ("rx_rate_limited", "Times that the rate limiter stopped what the guest receives"),
    ("stale_hints", "Hinted ranges that belong to no command in force"),
    ("stats_updates", "Statistics received"),
    ("syncs", "Times that what was written was made to survive a crash of the host"),
    ("timer_errors", "Times the polling timer could not be set"),
    ("tx_bad_frames", "Frames of the guest that make no sense"),
    ("tx_bytes", "Bytes that the guest sent"),
    ("tx_dropped_full", "Frames of the guest dropped because there was no room for them on the host"),
    ("tx_dropped_refused", "Frames of the guest that the host did not want"),
    ("tx_packets", "Frames that the guest sent"),
    ("tx_rate_limited", "Times that the rate limiter stopped what the guest sends"),
    ("under_pressure", "Frames that have nothing to do with swap, dropped because memory was short"),
    ("unclaimed_mmio", "Accesses of the guest to addresses that no device claims"),
    ("unclaimed_ports", "Accesses of the guest to ports that no device claims"),
    (
        "unfetched",
        "Frames that have nothing to do with swap, dropped because their answers would not have been fetched",
    ),
    ("unknown_stats", "Statistics with a tag that nobody knows"),
    ("unserved", "Frames of protocols that nobody here speaks"),
    ("unsupported", "Requests of a type that the device does not know"),
    ("updates", "Times that the operator has put another file behind the disk, or the same one anew"),
    ("write_zeroes", "Write zeroes served"),
    ("writes", "Writes served"),
    ("written_bytes", "Bytes written"),
    ("zeroed_bytes", "Bytes zeroed"),
];

/// Writes the counters of all devices: an object for each, of names and numbers.
pub(super) fn write(to: &mut DescriptorEncoder<'_>, devices: &Map<String, Value>) -> fmt::Result {
    let mut families: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (device, counters) in devices {
        for (name, count) in counters.as_object().into_iter().flatten() {
            if let Some(count) = count.as_u64() {
                families.entry(name).or_default().push((device, count));
            }
        }
    }
    families.into_iter().try_for_each(|(name, counts)| {
        let family = format!("aerostat_device_{name}");
        let help = help(name).unwrap_or("A counter of the device, as in the metrics file");
        Samples::begin(to, &family, MetricType::Counter, help)?.each("device", counts)
    })
}

fn help(name: &str) -> Option<&'static str> {
    HELP.iter().find(|(of, _)| *of == name).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::legacy::{ConsoleMetrics, I8042Metrics};
    use crate::devices::virtio::{
        balloon::BalloonMetrics, blk::BlockMetrics, net::NetMetrics, rng::RngMetrics,
        transport::TransportMetrics,
    };
    use crate::link::LinkMetrics;

    #[test]
    fn every_counter_of_a_device_has_a_meaning_of_its_own() {
        let value = |metrics: Result<Value, serde_json::Error>| metrics.expect("JSON");
        for counters in [
            value(serde_json::to_value(BalloonMetrics::default())),
            value(serde_json::to_value(BlockMetrics::default())),
            value(serde_json::to_value(NetMetrics::default())),
            value(serde_json::to_value(RngMetrics::default())),
            value(serde_json::to_value(TransportMetrics::default())),
            value(serde_json::to_value(LinkMetrics::default())),
            value(serde_json::to_value(ConsoleMetrics::default())),
            value(serde_json::to_value(I8042Metrics::default())),
            crate::vm::exits::total(std::iter::empty()),
        ] {
            for name in counters.as_object().expect("object").keys() {
                assert!(help(name).is_some(), "HELP does not say what {name} means");
            }
        }
    }
}
