//! See `openexec_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::config::check(bytes);
});
