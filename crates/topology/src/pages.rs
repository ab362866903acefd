//! A vector that snapshots share page by page: a clone costs nothing, and the first change after it copies one page.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Items of a page. A first change copies a page and the list of pages, so their sizes ought to be alike: 10,000 nodes
/// are 157 pages of 64.
const PAGE: usize = 64;

/// A vector by number, copied on write.
#[derive(Clone, Debug)]
pub(crate) struct Pages<T> {
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T: Clone> Pages<T> {
    pub(crate) fn new() -> Self {
        Self { pages: Arc::default(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, item: T) {
        let pages = Arc::make_mut(&mut self.pages);
        match pages.last_mut() {
            Some(last) if !self.len.is_multiple_of(PAGE) => Arc::make_mut(last).push(item),
            _ => pages.push(Arc::new(vec![item])),
        }
        self.len += 1;
    }
}

impl<T> Index<u32> for Pages<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.pages[at as usize / PAGE][at as usize % PAGE]
    }
}

impl<T: Clone> IndexMut<u32> for Pages<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.pages)[at as usize / PAGE])[at as usize % PAGE]
    }
}
