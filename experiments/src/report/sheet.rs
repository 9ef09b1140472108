//! A table of text cells, and its forms: terminal, Markdown, CSV.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// Three rules: above and below the table, and under its header.
const RULES: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// A column: its title, and whether its cells are numbers (set flush right).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Title.
    pub title: String,
    /// Whether the cells are numbers.
    pub numeric: bool,
}

impl Column {
    /// A column of words.
    #[must_use]
    pub fn text(title: impl Into<String>) -> Self {
        Self { title: title.into(), numeric: false }
    }

    /// A column of numbers.
    #[must_use]
    pub fn number(title: impl Into<String>) -> Self {
        Self { title: title.into(), numeric: true }
    }
}

/// A table of text cells: as many in each row as there are columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Sheet {
    /// The table drawn for a terminal of `width` characters, or of the terminal's own width where none is given.
    #[must_use]
    pub fn terminal(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(RULES).set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = width {
            table.set_width(width);
        }
        table.set_header(self.columns.iter().map(|column| column.title.as_str()));
        for row in &self.rows {
            table.add_row(row);
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let (Some(drawn), true) = (table.column_mut(index), column.numeric) {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// The table in Markdown, as GitHub reads it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        let rule = |column: &Column| if column.numeric { "---:" } else { "---" }.to_owned();
        let mut text = line(&mut self.columns.iter().map(|column| markdown_cell(&column.title)));
        text += &line(&mut self.columns.iter().map(rule));
        for row in &self.rows {
            text += &line(&mut row.iter().map(|cell| markdown_cell(cell)));
        }
        text
    }

    /// The table as comma-separated values (RFC 4180, with `\n` ends of lines).
    #[must_use]
    pub fn csv(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| cells.map(csv_cell).collect::<Vec<_>>().join(",") + "\n";
        let mut text = line(&mut self.columns.iter().map(|column| column.title.as_str()));
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }
}

fn markdown_cell(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            columns: vec![Column::text("case"), Column::number("score")],
            rows: vec![vec!["a|b, \"c\" <i>".into(), "1".into()], vec!["d".into(), "10".into()]],
        }
    }

    #[test]
    fn markdown_cells_cannot_break_the_table() {
        let expected = "| case | score |\n| --- | ---: |\n| a\\|b, \"c\" &lt;i> | 1 |\n| d | 10 |\n";
        assert_eq!(sheet().markdown(), expected);
    }

    #[test]
    fn csv_cells_with_commas_are_quoted() {
        assert_eq!(sheet().csv(), "case,score\n\"a|b, \"\"c\"\" <i>\",1\nd,10\n");
    }

    #[test]
    fn numbers_are_flush_right_in_a_terminal() {
        let drawn = sheet().terminal(Some(60));
        let rows: Vec<&str> = drawn.lines().filter(|line| line.contains('1')).map(str::trim_end).collect();
        assert!(rows[0].ends_with(" 1") && rows[1].ends_with("10"), "{drawn}");
        assert_eq!(rows[0].chars().count(), rows[1].chars().count());
    }
}
