//! Aerostat and QEMU, measured in turn.
