// llmc manual: the manual page, made from the very flags that are parsed.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "core/json.h"
#include "core/utf8.h"
#include "core/version.h"

namespace llmc {
namespace {

/// Text as roff shows it unchanged (groff_char(7), man(7)), in ASCII whatever the reader's locale.
std::string escape_roff(const std::string& text) {
  std::string escaped;
  bool starts_line = true;
  for (size_t at = 0; at < text.size();) {
    const auto [c, bytes] = code_point_at(text, at);
    at += bytes;
    if (starts_line && (c == '.' || c == '\'')) escaped += "\\&";
    if (c == '\\') escaped += "\\e";
    else if (c == '-') escaped += "\\-";
    else if (c >= 0x80) escaped += fmt::format("\\[u{:04X}]", static_cast<uint32_t>(c));
    else escaped += static_cast<char>(c);
    starts_line = c == '\n';
  }
  return escaped;
}

std::string literal(const std::string& text) { return fmt::format(".nf\n{}\n.fi\n", escape_roff(text)); }

std::string describe_for_manual(const CLI::Option& option) {
  const bool is_positional = option.get_positional();
  std::string text = fmt::format(".TP\n\\fB{}\\fR", escape_roff(option.get_name(is_positional, !is_positional)));
  if (!is_positional && option.get_expected_max() > 0) text += fmt::format(" \\fI{}\\fR", escape_roff(option.get_type_name()));
  text += "\n" + escape_roff(option.get_description());
  if (!option.get_default_str().empty()) text += escape_roff(fmt::format(" (default: {})", option.get_default_str()));
  if (option.get_required()) text += " (required)";
  return text + "\n";
}

std::string describe_for_manual(const CLI::App& command) {
  std::string text = fmt::format(".SS llmc {}\n{}\n", escape_roff(command.get_name()), escape_roff(command.get_description()));
  std::vector<std::string> groups;
  std::map<std::string, std::string> by_group;
  for (const CLI::Option* option : command.get_options()) {
    const std::string& group = option->get_group();
    if (group.empty()) continue;  // hidden
    if (!by_group.contains(group)) groups.push_back(group);
    by_group[group] += describe_for_manual(*option);
  }
  for (const std::string& group : groups) text += fmt::format(".PP\n\\fI{}\\fR\n{}", escape_roff(group), by_group.at(group));
  if (!command.get_footer().empty()) text += ".PP\n" + literal(command.get_footer());
  return text;
}

std::string manual_page(const CLI::App& app) {
  // groff's fonts for paper lack ‖.
  std::string text = fmt::format(".TH LLMC 1 \"\" \"llmc {}\" \"User Commands\"\n.if \\n(.g .fchar \\[u2016] ||\n.SH NAME\nllmc \\- {}\n.SH SYNOPSIS\n\\fBllmc\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH COMMANDS\n", version_text, escape_roff(app.get_description()));
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) text += describe_for_manual(*command);
  return text + ".SH EXAMPLES AND EXIT STATUS\n" + literal(app.get_footer());
}

}  // namespace

CommandFunction add_manual(CLI::App& app) {
  app.description("Prints the manual page (roff).");
  app.footer("Example:\n  llmc manual | man -l -");
  return [&app](const CommandContext& context) {
    const std::string page = manual_page(*app.get_parent());
    if (context.common.json) fmt::print("{}", format_json({{"page", page}}));
    else fmt::print("{}", page);
    return exit_done;
  };
}

}  // namespace llmc
