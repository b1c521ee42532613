//! Linking: what the SQL of the extension is written from is a section that nothing refers to, and must stay.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    println!("cargo::rerun-if-changed=build.rs");
}
