//! What goes on for a cluster as long as its configuration is in force.

use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tracing::{Instrument, Span, error};

/// A task that ends when its cluster's configuration is replaced, and what it is called in the log.
pub type Task = (&'static str, BoxFuture<'static, ()>);

/// Runs the tasks of one cluster until all have ended.
///
/// # Panics
/// When one of them does, which is logged with its name: the agent ends and is started anew.
pub async fn supervise(tasks: Vec<Task>, span: Span) {
    let mut running = JoinSet::new();
    let mut names = std::collections::BTreeMap::new();
    for (name, task) in tasks {
        let handle = running.spawn(task.instrument(span.clone()));
        names.insert(handle.id(), name);
    }
    while let Some(ended) = running.join_next().await {
        let Err(died) = ended else { continue };
        let _line = span.entered();
        error!(task = names.get(&died.id()), %died, "a task of the cluster died");
        std::panic::resume_unwind(Box::new(died.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_task_that_dies_takes_the_others_with_it() {
        let forever = ("forever", std::future::pending().boxed());
        let dies = ("dies", async { panic!("as a defect would") }.boxed());
        let ended = tokio::spawn(supervise(vec![forever, dies], Span::none())).await;
        assert!(ended.expect_err("it died").is_panic());
        supervise(vec![("ends", async {}.boxed())], Span::none()).await;
    }
}
