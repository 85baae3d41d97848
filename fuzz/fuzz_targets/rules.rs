//! Rules as ipvsadm prints them: no text makes the reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = lvscheck::describe::read_text("ipvsadm.rules", text);
});
