// Says the nodes' words in the editor's language where the editor has lost them: that of ComfyUI 0.3.75 (1.32) sets a
// language up only after it took the packs' words, which are gone then. Where the editor has them this changes nothing.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const OURS = "DiffusionPerception"
const lost = new Set()
let languages = {}

/** What locales/ has in the editor's language. */
const spoken = () => languages[app.ui.settings.getSettingValue("Comfy.Locale")] ?? {}

/** Puts a node's words into its definition: what the search, the tooltips and the title are made of. */
function translate(definition, words) {
    definition.display_name = words.display_name
    definition.description = words.description ?? ""
    const categories = spoken().nodeCategories ?? {}
    definition.category = definition.category.split("/").map((part) => categories[part] ?? part).join("/")
    for (const group of Object.values(definition.input ?? {}))
        for (const [name, [, settings]] of Object.entries(group))
            if (settings) settings.tooltip = words.inputs?.[name]?.tooltip ?? settings.tooltip
    definition.output_tooltips = definition.output_tooltips?.map((tip, i) => words.outputs?.[i]?.tooltip ?? tip)
}

app.registerExtension({
    name: `${OURS}.Languages`,

    async init() {
        languages = await (await api.fetchApi("/i18n")).json()
    },

    beforeRegisterNodeDef(_, definition) {
        const words = definition.name.startsWith(OURS) ? spoken().nodeDefs?.[definition.name] : undefined
        lost.delete(definition.name)
        if (!words || words.display_name === definition.display_name) return
        lost.add(definition.name)
        translate(definition, words)
    },

    nodeCreated(node) {
        if (!lost.has(node.comfyClass)) return
        const words = spoken().nodeDefs[node.comfyClass]
        for (const widget of node.widgets ?? []) widget.label = words.inputs?.[widget.name]?.name ?? widget.label
        for (const slot of node.inputs ?? []) slot.localized_name = words.inputs?.[slot.name]?.name ?? slot.localized_name
        node.outputs?.forEach((slot, i) => (slot.localized_name = words.outputs?.[i]?.name ?? slot.localized_name))
    },
})
