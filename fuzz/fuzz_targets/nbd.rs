//! Bytes of an NBD client, in pieces. `ci/fuzz` runs it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| memsvc::swap::fuzz::run(bytes));
