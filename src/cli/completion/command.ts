/** `vmseal completion`: completion of words and names for bash, zsh and fish. */
import { Argument, type Command } from 'commander'
import { completionsOf } from './completions.js'

const shells = ['bash', 'zsh', 'fish'] as const
type Shell = (typeof shells)[number]

/** Each asks the program itself, which knows its commands; names come from the vCenter if it runs. */
const scripts: Readonly<Record<Shell, string>> = {
  bash: `_vmseal() {
  local IFS=$'\\n'
  local line="\${COMP_LINE:0:COMP_POINT}" words
  mapfile -t words < <(vmseal __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  COMPREPLY=()
  local word
  for word in "\${words[@]}"; do COMPREPLY+=("$(printf '%q' "$word")"); done
  if [ \${#COMPREPLY[@]} -eq 0 ]; then compopt -o default; fi
}
complete -F _vmseal vmseal`,
  zsh: `#compdef vmseal
_vmseal() {
  local -a found
  found=("\${(@f)$(vmseal __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -z "\${found[*]}" ]]; then _files; else compadd -- "\${found[@]}"; fi
}
compdef _vmseal vmseal`,
  fish: `function __vmseal_complete
  set -l words (commandline -opc) (commandline -ct)
  vmseal __complete -- $words[2..-1] 2>/dev/null
end
complete -c vmseal -a '(__vmseal_complete)'`,
}

export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('Print a script that completes commands, options and names in your shell.')
    .addArgument(new Argument('<shell>', 'your shell').choices(shells))
    .addHelpText(
      'after',
      `
Names of VMs, hosts, providers and so on are completed while the vCenter of --vcenter or VMSEAL_VCENTER runs.

Examples:
  source <(vmseal completion bash)                                  in ~/.bashrc
  source <(vmseal completion zsh)                                   in ~/.zshrc, after compinit
  vmseal completion fish > ~/.config/fish/completions/vmseal.fish`,
    )
    .action((shell: Shell) => void process.stdout.write(`${scripts[shell]}\n`))
  program
    .command('__complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: readonly string[]) => {
      for (const word of await completionsOf(program, words)) process.stdout.write(`${word}\n`)
    })
}
