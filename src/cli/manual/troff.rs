//! A manual page while it is written. Texts are a little Markdown: paragraphs, `code`, blocks indented by four blanks.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// At the foot of every page, and above it.
pub(super) const SOURCE: &str = concat!("Walward ", env!("CARGO_PKG_VERSION"));
pub(super) const MANUAL: &str = "Walward";
/// None: the version says which text it is. An empty word must be quoted, or troff takes the next one for it.
pub(super) const DATE: &str = "\"\"";

pub(super) struct Page {
    roff: Roff,
    /// What was made already, in troff.
    done: String,
}

impl Page {
    pub(super) fn new(name: &str, section: &str) -> Self {
        let mut roff = Roff::new();
        roff.control("TH", [name, section, DATE, SOURCE, MANUAL]);
        Self { roff, done: String::new() }
    }

    /// A page that begins with `text`.
    pub(super) fn after(text: &[u8]) -> Self {
        let mut page = Self { roff: Roff::new(), done: String::new() };
        page.raw(text);
        page
    }

    /// troff that something else made.
    pub(super) fn raw(&mut self, text: &[u8]) {
        self.flush();
        self.done.push_str(&String::from_utf8_lossy(text));
    }

    fn flush(&mut self) {
        let roff = std::mem::take(&mut self.roff);
        if roff != Roff::new() {
            self.done.push_str(&roff.render());
        }
    }

    pub(super) fn heading(&mut self, title: &str) {
        self.roff.control("SH", [title]);
    }

    /// Sections: title and text.
    pub(super) fn sections(&mut self, sections: &[(&str, &str)]) {
        for (title, text) in sections {
            self.heading(title);
            self.prose(text);
        }
    }

    /// Paragraphs, blocks of lines to type, and entries (`- term: meaning`).
    pub(super) fn prose(&mut self, text: &str) {
        let mut block = false;
        for part in text.split("\n\n").filter(|part| !part.trim().is_empty()) {
            if part.starts_with("    ") {
                self.roff.control(if block { "sp" } else { "PP" }, []);
                self.roff.control("nf", []);
                for line in part.lines() {
                    self.roff.text([roman(line)]);
                }
                self.roff.control("fi", []);
            } else if part.starts_with("- ") {
                for entry in part.split("\n- ") {
                    let entry = entry.trim_start_matches("- ").replace('\n', " ");
                    let (term, meaning) = entry.split_once(": ").unwrap_or((&entry, ""));
                    self.entry(term, "", meaning);
                }
            } else {
                self.roff.control("PP", []);
                self.paragraph(part);
            }
            block = part.starts_with("    ");
        }
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.roff.text(inlines(text));
    }

    /// A line of its own, in bold.
    pub(super) fn line(&mut self, text: &str) {
        self.roff.text([bold(text)]).control("br", []);
    }

    /// A term, what stands beside it, and what it means.
    pub(super) fn entry(&mut self, term: &str, beside: &str, meaning: &str) {
        let term = term.replace('`', "");
        self.roff.control("TP", []).text([vec![bold(term)], inlines(beside)].concat()).text(inlines(meaning));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        let mut text: String = self.done.lines().flat_map(|line| [code_in_bold(line), "\n".to_owned()]).collect();
        // One definition of the apostrophe is enough.
        let preamble = preamble();
        if let Some(rest) = text.strip_prefix(&preamble) {
            text = format!("{preamble}{}", rest.replace(&preamble, ""));
        }
        text.into_bytes()
    }
}

/// What every piece of troff begins with.
fn preamble() -> String {
    Roff::new().render()
}

fn inlines(text: &str) -> Vec<Inline> {
    text.split('`').enumerate().map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

/// `code` that came from the command line's own help. A line with an odd quote is left as it is.
fn code_in_bold(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    if line.starts_with('.') || parts.len().is_multiple_of(2) {
        return line.to_owned();
    }
    let set = |(at, part): (usize, &&str)| if at % 2 == 1 { format!("\\fB{part}\\fR") } else { (*part).to_owned() };
    parts.iter().enumerate().map(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> String {
        let mut page = Page::new("x", "1");
        page.prose(text);
        String::from_utf8(page.finish()).unwrap()
    }

    #[test]
    fn prose_becomes_paragraphs_blocks_and_entries() {
        let text = made("One `two` three.\n\n    .four\n\n- five: six\n- seven: eight\n  nine");
        assert!(text.contains(".PP\nOne \\fBtwo\\fR three.\n"), "{text}");
        assert!(text.contains(".nf\n    .four\n.fi\n"), "{text}");
        assert!(text.contains(".TP\n\\fBfive\\fR\nsix\n.TP\n\\fBseven\\fR\neight   nine\n"), "{text}");
        assert_eq!(text.matches(".ds Aq").count(), preamble().matches(".ds Aq").count());
    }

    #[test]
    fn text_that_looks_like_a_request_is_none() {
        let text = made(".so /etc/passwd\n'x");
        assert!(!text.lines().any(|line| line.starts_with(".so") || line.starts_with('\'')), "{text}");
    }

    #[test]
    fn code_is_bold_and_a_lone_quote_stays() {
        assert_eq!(code_in_bold("a `b` c"), "a \\fBb\\fR c");
        assert_eq!(code_in_bold("a ` c"), "a ` c");
    }
}
