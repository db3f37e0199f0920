//! Link settings that a Node addon needs, nothing else.

fn main() {
    napi_build::setup();
}
