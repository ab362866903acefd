//! The helper as a program of its own, for tests: a test binary's `main` belongs to libtest, so it cannot turn into one.

fn main() {
    weft_cluster::helper::dispatch();
    eprintln!("this program is started by weft-cluster, with arguments of its own");
    std::process::exit(2);
}
