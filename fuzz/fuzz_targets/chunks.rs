//! See `openexec_fuzz::chunks`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::chunks::check(bytes);
});
