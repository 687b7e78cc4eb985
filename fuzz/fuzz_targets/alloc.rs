//! Sequences of operations on the frame allocator, checked against its model after each. `ci/fuzz` runs it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| memsvc::core::bytes::run(bytes));
