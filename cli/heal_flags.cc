#include "cli/heal_flags.h"

#include "cli/number_checks.h"
#include "core/error.h"

namespace llmc {

void add_heal_options(CLI::App& app, HealFlags& flags) {
  app.add_flag("--heal", flags.heal, "Then train scales, norms, biases and what pruning left until the model says what the original says (needs calibration)")->group("Healing");
  app.add_option("--heal-epochs", flags.epochs, "With --heal: how often it sees every calibration sample (default 1)")->check(whole_number(1))->group("Healing");
  app.add_option("--heal-scope", flags.scope, "With --heal: model (default), end to end against the original's logits; or block, each against the original's output by itself, in the memory of one block")->check(CLI::IsMember({"model", "block"}))->group("Healing");
}

void add_heal_step(Recipe& recipe, const HealFlags& flags) {
  if (flags.epochs && !flags.heal) throw Error(ErrorKind::usage, "--heal-epochs makes no sense without --heal");
  if (!flags.scope.empty() && !flags.heal) throw Error(ErrorKind::usage, "--heal-scope makes no sense without --heal");
  if (!flags.heal) return;
  recipe.steps.push_back({{"pass", "heal"}});
  if (flags.epochs) recipe.steps.back()["epochs"] = *flags.epochs;
  if (!flags.scope.empty()) recipe.steps.back()["scope"] = flags.scope;
}

}  // namespace llmc
