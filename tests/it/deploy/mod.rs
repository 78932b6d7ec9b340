//! What installers rely on, held against the node.

mod token_file;
