//! A line of JSON for every event, its fields and those of the spans around it side by side, as in the journal. (The library's
//! own format keeps the spans' apart, where a query for a cluster would not find them.)

use std::io::Write;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Writes them.
pub struct Lines<W> {
    to: W,
}

impl<W> Lines<W> {
    pub fn new(to: W) -> Self {
        Self { to }
    }
}

/// A span's fields.
struct Fields(Map<String, Value>);

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Map::new();
        attributes.record(&mut Into(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Fields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(Fields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(&mut Into(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), Timestamp::now().to_string().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(Fields(fields)) = span.extensions().get() {
                line.extend(fields.clone());
            }
        }
        event.record(&mut Into(&mut line));
        // Nobody is left to tell when standard error is closed.
        let _ = self.to.make_writer_for(event.metadata()).write_all(format!("{}\n", Value::Object(line)).as_bytes());
    }
}

/// Gathers fields.
struct Into<'a>(&'a mut Map<String, Value>);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use walward_base::trace;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_fields_of_spans_stand_beside_those_of_the_event() {
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber = tracing_subscriber::registry().with(Lines::new(move || to.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _cluster = trace::of_cluster("main").entered();
            let _backup = trace::of_backup().entered();
            tracing::info!("before");
            trace::name_backup("20261121T064158Z-full");
            let work = trace::carried(|| tracing::warn!(count = 3, error = "two\nlines", "after"));
            std::thread::scope(|scope| {
                let dispatch = tracing::dispatcher::get_default(Clone::clone);
                scope.spawn(move || tracing::dispatcher::with_default(&dispatch, work));
            });
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [before, after] = lines.as_slice() else { panic!("{text}") };
        assert_eq!((before["cluster"].as_str(), before.get("backup")), (Some("main"), None));
        assert_eq!((after["cluster"].as_str(), after["level"].as_str()), (Some("main"), Some("WARN")));
        assert_eq!(after["backup"], "20261121T064158Z-full");
        assert_eq!((&after["message"], &after["count"]), (&"after".into(), &3.into()));
    }
}
