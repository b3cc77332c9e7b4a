// llmc completions: shell completions, made from the very flags that are parsed.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "core/json.h"

namespace llmc {
namespace {

/// Long flags of a command, "--output --force …".
std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  return flags;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::string names_of(const std::vector<const CLI::App*>& commands) {
  std::string names;
  for (const CLI::App* command : commands) names += (names.empty() ? "" : " ") + command->get_name();
  return names;
}

std::string bash_completions(const std::vector<const CLI::App*>& commands) {
  std::string text = fmt::format("_llmc() {{\n  local word=\"${{COMP_WORDS[COMP_CWORD]}}\" flags=\"\"\n  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    COMPREPLY=($(compgen -W \"{} --help --version\" -- \"$word\"))\n    return\n  fi\n  case \"${{COMP_WORDS[1]}}\" in\n", names_of(commands));
  for (const CLI::App* command : commands) text += fmt::format("    {}) flags=\"{}\" ;;\n", command->get_name(), fmt::join(flags_of(*command), " "));
  return text + "  esac\n  if [[ \"$word\" == -* ]]; then\n    COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n  else\n    COMPREPLY=($(compgen -f -- \"$word\"))\n  fi\n}\ncomplete -o filenames -F _llmc llmc\n";
}

std::string zsh_completions(const std::vector<const CLI::App*>& commands) {
  std::string text = fmt::format("#compdef llmc\nif (( CURRENT == 2 )); then\n  compadd {} --help --version\n  return\nfi\ncase ${{words[2]}} in\n", names_of(commands));
  for (const CLI::App* command : commands) text += fmt::format("  {}) [[ ${{words[CURRENT]}} == -* ]] && compadd -- {} || _files ;;\n", command->get_name(), fmt::join(flags_of(*command), " "));
  return text + "esac\n";
}

std::string fish_completions(const std::vector<const CLI::App*>& commands) {
  std::string text;
  for (const CLI::App* command : commands) {
    text += fmt::format("complete -c llmc -n __fish_use_subcommand -a {}\n", command->get_name());
    for (const std::string& flag : flags_of(*command)) text += fmt::format("complete -c llmc -n '__fish_seen_subcommand_from {}' -l {}\n", command->get_name(), flag.substr(2));
  }
  return text;
}

}  // namespace

CommandFunction add_completions(CLI::App& app) {
  app.description("Prints completions for a shell: bash, zsh or fish.");
  app.footer("Example:\n  llmc completions bash > ~/.local/share/bash-completion/completions/llmc");
  auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  return [shell, &app](const CommandContext& context) {
    const auto commands = commands_of(*app.get_parent());
    const std::string script = *shell == "bash" ? bash_completions(commands) : *shell == "zsh" ? zsh_completions(commands) : fish_completions(commands);
    if (context.common.json) fmt::print("{}", format_json({{"shell", *shell}, {"script", script}}));
    else fmt::print("{}", script);
    return exit_done;
  };
}

}  // namespace llmc
