//! The manual pages, made of what the program itself goes by: the command line, the table of keys, the exit codes, the client's
//! usage. What no table knows stands in `prose`.
//!
//! A page is named as `man` wants it. `walward-wal(1)` is the client, because that is a program; the commands of `walward wal`
//! have pages of their own, and it leads to them.

mod prose;
mod troff;

use std::collections::BTreeMap;
use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::config::keys::{Default, Key, Section, type_name};
use crate::daemon;
use crate::outcome::Exit;
use troff::{DATE, MANUAL, Page, SOURCE};
use walward_wire::client::USAGE;

/// Every page by its file name. `command` is the whole command line of `walward`.
pub(super) fn pages(command: Command) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = BTreeMap::new();
    of_command(&command, &mut pages)?;
    let agent = daemon::Arguments::command().about(prose::AGENT).long_about(prose::AGENT_LONG);
    pages.insert("walwardd.8".to_owned(), of_program(agent, "8")?);
    pages.insert("walward-wal.1".to_owned(), client());
    pages.insert("walward.toml.5".to_owned(), configuration());
    Ok(pages)
}

fn of_command(command: &Command, pages: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        of_command(inner, pages)?;
    }
    pages.insert(format!("{}.1", name_of(command)), of_program(command.clone(), "1")?);
    Ok(())
}

fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn of_program(command: Command, section: &str) -> io::Result<Vec<u8>> {
    let name = name_of(&command).to_owned();
    // clap_mangen would list every option in the synopsis.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let command = command.override_usage(usage);
    let inner: Vec<String> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .map(|inner| format!("{name}-{}(1)", inner.get_name()))
        .collect();
    let mut text = Vec::new();
    let man = Man::new(command).section(section).date(DATE).source(SOURCE).manual(MANUAL);
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    let mut page = Page::after(&text);
    if name == "walward" {
        page.sections(prose::FIRST_STEPS);
    }
    let mut rest = Vec::new();
    if !inner.is_empty() {
        man.render_subcommands_section(&mut rest)?;
    }
    man.render_options_section(&mut rest)?;
    page.raw(&rest);
    page.sections(prose::of(&name));
    if name == "walward" {
        exit_status(&mut page);
    }
    see_also(&mut page, &name, inner);
    Ok(page.finish())
}

fn exit_status(page: &mut Page) {
    page.heading("EXIT STATUS");
    for exit in Exit::ALL {
        page.entry(&exit.code().to_string(), "", exit.meaning());
    }
}

fn see_also(page: &mut Page, name: &str, inner: Vec<String>) {
    let others = match name {
        "walward" => &["walward-wal(1)", "walward.toml(5)", "walwardd(8)"][..],
        "walwardd" => &["walward(1)", "walward-wal(1)", "walward.toml(5)", "journalctl(1)"],
        _ => &["walward(1)", "walward.toml(5)"],
    };
    // What walward(1) has under SUBCOMMANDS need not be said again.
    let inner = if name == "walward" { Vec::new() } else { inner };
    let pages: Vec<String> = inner.into_iter().chain(others.iter().map(|&other| other.to_owned())).collect();
    page.heading("SEE ALSO");
    page.paragraph(&pages.join(", "));
}

/// walward-wal(1), from the text that the client prints for `--help`.
fn client() -> Vec<u8> {
    let mut page = Page::new("walward-wal", "1");
    page.heading("NAME");
    page.paragraph("walward-wal - archive_command and restore_command of PostgreSQL, answered by walwardd");
    let (usage, rest) = USAGE.split_once("\n\n").unwrap_or((USAGE, ""));
    page.heading("SYNOPSIS");
    for line in usage.lines() {
        page.line(line.trim_start_matches("usage:").trim());
    }
    let (description, rest) = rest.split_once("options:\n").unwrap_or((rest, ""));
    page.heading("DESCRIPTION");
    page.prose(description.trim_end());
    page.prose(prose::CLIENT);
    let (options, codes) = rest.split_once("\n\n").unwrap_or((rest, ""));
    page.heading("OPTIONS");
    for (option, meaning) in entries(options) {
        page.entry(&option, "", &meaning);
    }
    page.heading("EXIT STATUS");
    for line in codes.trim_start_matches("exit codes:").lines() {
        let (verb, meaning) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        page.entry(verb, "", meaning);
    }
    page.sections(prose::of("walward-wal"));
    let commands = ["push", "fetch", "recovered", "list", "gaps", "set-aside", "list-aside", "restore-aside"];
    let commands = commands.map(|command| format!("walward-wal-{command}(1)"));
    see_also(&mut page, "walward-wal", [&commands[..], &["walwardd(8)".to_owned()]].concat());
    page.finish()
}

/// The options of [`USAGE`] with what each means: a name, two blanks or more, its meaning; further lines are indented.
fn entries(options: &str) -> Vec<(String, String)> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in options.lines() {
        let line = line.strip_prefix("  ").unwrap_or(line);
        if let (true, Some((_, meaning))) = (line.starts_with(' '), entries.last_mut()) {
            meaning.push(' ');
            meaning.push_str(line.trim());
        } else {
            let (option, meaning) = line.split_once("  ").unwrap_or((line, ""));
            entries.push((option.to_owned(), meaning.trim().to_owned()));
        }
    }
    entries
}

/// walward.toml(5).
fn configuration() -> Vec<u8> {
    let mut page = Page::new("walward.toml", "5");
    page.heading("NAME");
    page.paragraph("walward.toml - configuration of Walward");
    page.heading("SYNOPSIS");
    page.line("/etc/walward/walward.toml");
    page.line("/etc/walward/conf.d/*.toml");
    page.heading("DESCRIPTION");
    page.prose(prose::CONFIGURATION);
    for (section, title) in
        [(Section::Agent, "[agent]"), (Section::Repository, "[repository.NAME]"), (Section::Cluster, "[cluster.NAME]")]
    {
        page.heading(title);
        for key in section.keys() {
            of_key(&mut page, key);
        }
    }
    page.sections(prose::of("walward.toml"));
    page.heading("SEE ALSO");
    page.paragraph("walward(1), walward-setup(1), walward-config(1), walwardd(8)");
    page.finish()
}

fn of_key(page: &mut Page, key: &Key) {
    let default = match key.default {
        Default::Required(example) => format!("Required; for example `{example}`."),
        Default::Absent(meaning) => format!("Default: {meaning}."),
        Default::Is(value) => format!("Default: `{value}`."),
        Default::Cores(most) => format!("Default: the number of cores, at most {most}."),
    };
    page.entry(key.name, &format!(" ({})", type_name(key.kind)), &format!("{} {default}", key.meaning));
}
