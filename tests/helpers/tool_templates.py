"""Chat templates that call tools as gpt-oss, Qwen3-Coder, GLM-4.5 and Llama 4 do, shortened."""

from __future__ import annotations

GPT_OSS = (
    "{{ '<|start|>system<|message|># Valid channels: analysis, commentary, final.<|end|>' }}"
    "{% if tools %}{{ '<|start|>developer<|message|># Tools\n\nnamespace functions {\n' }}"
    "{% for tool in tools %}{% set f = tool.function %}"
    "{{ '// ' ~ f.description ~ '\n' if f.description }}"
    "{{ 'type ' ~ f.name ~ ' = (_: ' ~ (f.parameters | tojson) ~ ') => any;\n' }}"
    "{% endfor %}{{ '} // namespace functions<|end|>' }}{% endif %}"
    "{% set last = namespace(name=none) %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ '<|start|>functions.' ~ last.name }}"
    "{{ ' to=assistant<|channel|>commentary<|message|>' ~ m.content ~ '<|end|>' }}"
    "{% elif m.tool_calls %}"
    "{% if m.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' ~ m.thinking ~ '<|end|>' }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}{% set last.name = call.name %}"
    "{{ '<|start|>assistant to=functions.' ~ call.name ~ '<|channel|>commentary json<|message|>' }}"
    "{{ (call.arguments | tojson) ~ '<|call|>' }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' ~ m.content ~ '<|end|>' }}"
    "{% else %}{{ '<|start|>' ~ m.role ~ '<|message|>' ~ m.content ~ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
_XML = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' ~ (tool | tojson) }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content }}"
    "{% for call in m.tool_calls or [] %}CALL{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_VALUE = "(v if v is string else v | tojson)"
QWEN3_CODER = _XML.replace(
    "CALL",
    "{{ '\n<tool_call>\n<function=' ~ call.function.name ~ '>\n' }}"
    "{% for k, v in call.function.arguments.items() %}"
    "{{ '<parameter=' ~ k ~ '>\n' ~ VALUE ~ '\n</parameter>\n' }}{% endfor %}"
    "{{ '</function>\n</tool_call>' }}",
).replace("VALUE", _VALUE)
GLM45 = _XML.replace(
    "CALL",
    "{{ '\n<tool_call>' ~ call.function.name ~ '\n' }}"
    "{% for k, v in call.function.arguments.items() %}"
    "{{ '<arg_key>' ~ k ~ '</arg_key>\n<arg_value>' ~ VALUE ~ '</arg_value>\n' }}{% endfor %}"
    "{{ '</tool_call>' }}",
).replace("VALUE", _VALUE)
LLAMA4 = (
    "{% if tools %}{{ '<|header_start|>system<|header_end|>\n\nUse the format ' }}"
    "{{ '[func_name1(param1=value1, param2=value2), func_name2(...)]' }}"
    "{% for tool in tools %}{{ '\n' ~ (tool | tojson) }}{% endfor %}{{ '<|eot|>' }}{% endif %}"
    "{% for m in messages %}"
    "{{ '<|header_start|>' ~ ('ipython' if m.role == 'tool' else m.role) ~ '<|header_end|>\n\n' }}"
    "{{ m.content }}{% if m.tool_calls %}{{ '[' }}{% for call in m.tool_calls %}"
    "{{ call.function.name ~ '(' }}{% for k, v in call.function.arguments.items() %}"
    "{{ k ~ '=' ~ (v | tojson) }}{{ ', ' if not loop.last }}{% endfor %}{{ ')' }}"
    "{{ ', ' if not loop.last }}{% endfor %}{{ ']' }}{% endif %}{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}"
)
