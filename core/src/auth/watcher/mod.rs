//! Steps 1 to 3, in the watcher: whose knock it is, who signed it, and whether it is a duplicate. Unauthenticated
//! packets end here.

pub(super) mod authenticate;
pub(super) mod duplicates;
pub(super) mod flow_table;
pub(super) mod hints;
pub(super) mod selectors;
pub(super) mod sequence_queue;
pub(super) mod watched_key;
