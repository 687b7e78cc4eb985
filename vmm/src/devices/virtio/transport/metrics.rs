//! Counters of drivers' mistakes at a transport, and of devices that started over.

use crate::devices::virtio::Counter;

/// Counters of one transport.
#[derive(Debug, Default, serde::Serialize)]
pub struct TransportMetrics {
    /// Devices brought to life.
    pub activations: Counter,
    /// Activations refused, because a queue was set up wrongly.
    pub activations_refused: Counter,
    /// Resets by the driver.
    pub resets: Counter,
    /// Feature sets refused: `VERSION_1` missing, or a bit that was not offered.
    pub features_refused: Counter,
    /// Status writes out of order, or that clear bits.
    pub bad_status_writes: Counter,
    /// Writes of wrong width, at no register, or in a state that does not allow them.
    pub bad_register_writes: Counter,
    /// Reads of registers that left the guest; KVM answers them, so there are none.
    pub register_reads: Counter,
    /// Kicks that came through the register rather than through the kernel.
    pub register_kicks: Counter,
    /// Kicks of queues that do not exist.
    pub bad_kicks: Counter,
    /// Interrupts raised: for used buffers, another configuration, or a reset that is needed.
    pub interrupts: Counter,
    /// Rings that made no sense; each stopped the device until its reset.
    pub queue_errors: Counter,
}
