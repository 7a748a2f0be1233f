#![no_main]

#[allow(dead_code)] // a part of it is used
#[path = "../../support"]
mod support {
    pub mod world;
}
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::program(data));
