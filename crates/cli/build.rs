//! Links with packed relocations where the C library knows them: glibc since 2.36, of 2022. The loader reads all of them at
//! every start, so 0.6 MB less in the file are 1.1 MB less memory for each process. Elsewhere nothing changes.
// Cargo tells a build script everything by the environment.
#![allow(clippy::disallowed_methods)]

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if is_for_this_system() && glibc() >= Some((2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Of another system's C library nothing is known.
fn is_for_this_system() -> bool {
    let is = |name, value| env::var(name).is_ok_and(|found| found == value);
    is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && env::var("TARGET") == env::var("HOST")
}

/// As `getconf` prints it: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let printed = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let version = String::from_utf8(printed).ok()?;
    let (major, minor) = version.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
