#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vmseal_fuzz::check_splice(bytes);
});
