//! See `openexec_fuzz::approval`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::approval::check(bytes);
});
