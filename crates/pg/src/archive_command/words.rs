//! A command as `/bin/sh` splits it (POSIX shell command language, 2.3): words and operators. Pure.

/// A piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Without its quotes.
    Word(String),
    /// `;` `&` `&&` `||` `|` `(` `)`; a line's end is a `;`.
    Operator(&'static str),
}

/// Splits as the shell does: quotes, escapes, comments, redirections (which go). What `$` and backquotes stand for stays as it is written.
pub(super) fn tokens(command: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut skip_next = false;
    let mut chars = command.chars().peekable();
    macro_rules! end_word {
        () => {
            if let Some(word) = word.take()
                && !std::mem::take(&mut skip_next)
            {
                tokens.push(Token::Word(word));
            }
        };
    }
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    let escaped = (c == '\\').then(|| chars.next_if(|next| "\"\\$`".contains(*next))).flatten();
                    word.push(escaped.unwrap_or(c));
                }
            }
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '>' | '<' => {
                // A number before it names a descriptor.
                if word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    word = None;
                }
                end_word!();
                while chars.next_if(|c| "<>&|".contains(*c)).is_some() {}
                skip_next = true;
            }
            ';' | '\n' | '&' | '|' | '(' | ')' => {
                end_word!();
                let twice = (c == '&' || c == '|') && chars.next_if_eq(&c).is_some();
                tokens.push(Token::Operator(match (c, twice) {
                    ('&', true) => "&&",
                    ('&', false) => "&",
                    ('|', true) => "||",
                    ('|', false) => "|",
                    ('(', _) => "(",
                    (')', _) => ")",
                    _ => ";",
                }));
            }
            c if c.is_whitespace() => end_word!(),
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word!();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_falls_into_words_and_operators_as_the_shell_has_it() {
        let word = |text: &str| Token::Word(text.to_owned());
        let found = tokens("a\\ b 'c;d' \"e\\\"f\" 2>>log && g|h # i\n(j)");
        let expected = [
            word("a b"),
            word("c;d"),
            word("e\"f"),
            Token::Operator("&&"),
            word("g"),
            Token::Operator("|"),
            word("h"),
            Token::Operator(";"),
            Token::Operator("("),
            word("j"),
            Token::Operator(")"),
        ];
        assert_eq!(found, expected);
    }
}
