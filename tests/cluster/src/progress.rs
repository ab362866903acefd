//! What the person in front of it sees while a cluster is made.

/// Told what goes on. `working` comes at least every few seconds while something long is under way, so that a terminal
/// is never silent.
pub trait Progress: Send + Sync {
    /// A step is done, such as `control plane answers`.
    fn step(&self, text: &str);
    /// `what` goes on; `detail` is its newest news. Called often: show the latest, or every so many seconds.
    fn working(&self, what: &str, detail: &str);
    /// `what` has ended and needs no line any more.
    fn finished(&self, what: &str);
}

/// Says nothing: for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _text: &str) {}
    fn working(&self, _what: &str, _detail: &str) {}
    fn finished(&self, _what: &str) {}
}
