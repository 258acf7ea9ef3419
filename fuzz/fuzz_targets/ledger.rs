//! See `openexec_fuzz::ledger`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::ledger::check(bytes);
});
