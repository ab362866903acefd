//! Handles: numbers that C holds for our objects. A wrong or stale one is an error, never a stray pointer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A handle as C sees it; 0 is none.
pub type Handle = u64;

/// Objects of one kind by their handle.
pub struct Registry<T> {
    objects: RwLock<BTreeMap<Handle, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Registry<T> {
    /// An empty registry whose handles begin at `first`, so that those of different kinds differ.
    pub const fn new(first: Handle) -> Self {
        Self { objects: RwLock::new(BTreeMap::new()), next: AtomicU64::new(first) }
    }

    /// A handle that no object has yet.
    pub fn reserve(&self) -> Handle {
        self.next.fetch_add(0x10, Ordering::Relaxed)
    }

    /// Gives `object` the reserved `handle`.
    pub fn insert_at(&self, handle: Handle, object: Arc<T>) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
    }

    /// Gives `object` a handle.
    pub fn insert(&self, object: Arc<T>) -> Handle {
        let handle = self.reserve();
        self.insert_at(handle, object);
        handle
    }

    /// The object of a handle.
    pub fn get(&self, handle: Handle) -> Option<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Takes the handle away.
    pub fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Takes the handles of all objects for which `gone` holds.
    pub fn remove_where(&self, gone: impl Fn(&T) -> bool) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).retain(|_, object| !gone(object));
    }
}
