//! See `openexec_fuzz::path`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::path::check(bytes);
});
