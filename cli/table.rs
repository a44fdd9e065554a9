//! Tables as Ollama prints them: columns four spaces apart, no rules.

/// Lays rows out under a header; the last column is not padded.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // A control character in a name must not reach the terminal.
            let cell: String = cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            line.push_str(&format!("{cell:width$}    "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headers() {
        let rows = vec![
            vec!["smollm2:135m".to_owned(), "b179c9523d0e".to_owned(), "91 MB".to_owned()],
            vec!["a\x1b[31m".to_owned(), String::new(), "1 B".to_owned()],
        ];
        let text = render(&["NAME", "ID", "SIZE"], &rows);
        assert_eq!(
            text,
            "NAME            ID              SIZE\n\
             smollm2:135m    b179c9523d0e    91 MB\n\
             a?[31m                          1 B\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(render(&["NAME", "ID"], &[]), "NAME    ID\n");
    }
}
