//! keepalived.conf: no text makes the reader panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = lvscheck::describe::read_text("keepalived.conf", text);
});
