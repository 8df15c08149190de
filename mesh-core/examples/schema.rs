//! Prints the JSON schema of the configuration; `cargo xtask gen` keeps it in `docs/`.

fn main() {
    println!("{:#}", mesh_core::config::schema());
}
