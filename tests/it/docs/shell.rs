//! As much of a shell as the commands in our documents use: where a command begins, and its words.

/// The commands of a script, each as its words.
pub fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut characters = script.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('\n') | None => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(characters.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(inner) = characters.next().filter(|c| *c != '"') {
                    word.extend(if inner == '\\' { characters.next() } else { Some(inner) });
                }
            }
            '#' if word.is_none() => {
                while characters.peek().is_some_and(|c| *c != '\n') {
                    characters.next();
                }
            }
            '\n' | ';' | '|' | '&' | '(' | ')' => {
                end_word(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            // What a redirection names is not an argument.
            '<' | '>' => {
                if word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    word = None;
                }
                end_word(&mut word, &mut commands);
                while characters.peek().is_some_and(|c| ['<', '>', '&', ' '].contains(c)) {
                    characters.next();
                }
                while characters.peek().is_some_and(|c| !c.is_whitespace() && *c != ')') {
                    characters.next();
                }
            }
            ' ' | '\t' => end_word(&mut word, &mut commands),
            other => word.get_or_insert_default().push(other),
        }
    }
    end_word(&mut word, &mut commands);
    commands.retain(|command| !command.is_empty());
    commands
}

fn end_word(word: &mut Option<String>, commands: &mut [Vec<String>]) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
        command.push(word);
    }
}

/// The words from the program on, without what only says for whom and where it runs.
pub fn program(words: &[String]) -> &[String] {
    let mut words = words;
    loop {
        let skip = match words.first().map(String::as_str) {
            Some("exec" | "time" | "if" | "while" | "until" | "then" | "do" | "!" | "$") => 1,
            Some("sudo" | "runuser") => {
                let mut skip = 1;
                while let Some(option) = words.get(skip).filter(|word| word.starts_with('-')) {
                    skip += if option == "-u" { 2 } else { 1 };
                }
                skip
            }
            Some("kubectl" | "podman" | "docker") => match words.iter().position(|word| word == "--") {
                Some(end) => end + 1,
                None => return words,
            },
            Some(word) if word.split_once('=').is_some_and(|(name, _)| is_variable(name)) => 1,
            _ => return words,
        };
        words = words.get(skip..).unwrap_or_default();
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn commands_and_words_are_found() {
    let script = "# no\nsudo -u postgres walward --cluster main \\\n  restore --time '2026-11-21 14:03:00+00' >x 2>&1 && A=b walward \"a b\" | less # no\n";
    let found = commands(script);
    let first = ["walward", "--cluster", "main", "restore", "--time", "2026-11-21 14:03:00+00"];
    assert_eq!(program(&found[0]), first);
    assert_eq!(program(&found[1]), ["walward", "a b"]);
    assert_eq!(found[2], ["less"]);
    assert_eq!(program(&commands("kubectl exec main-0 -c walward -- walward info")[0]), ["walward", "info"]);
}
