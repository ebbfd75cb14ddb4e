//! Tauri's code generation: configuration, capabilities and icons.

fn main() {
    tauri_build::build();
}
