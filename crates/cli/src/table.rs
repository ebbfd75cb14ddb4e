//! Columns as Docker prints them: as wide as their widest cell, three blanks between.

/// Rows below heads.
pub(crate) fn print(heads: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: &[&str]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                text.push_str(&" ".repeat(width - cell.chars().count() + 3));
            }
        }
        crate::printer::line(text.trim_end());
    };
    show(heads);
    for row in rows {
        show(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// At most `length` characters, the last an ellipsis where some were cut.
pub(crate) fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}
